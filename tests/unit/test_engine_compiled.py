"""Decode steps that are compiled before they are recorded: the same answers, and one layer's code for all of them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_parity import engine_of, gemma3, llama, prompts, reference, tokens_of
from torch._dynamo.utils import counters

from del_codec.errors import InvalidValue
from del_server import lora
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling
from del_server.engine.compiled import CompiledSteps

TWENTY = Sampling(20, ignore_eos=True)
Run = Callable[[], torch.Tensor]
inductor = torch.compile


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DEL_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch.compiler.reset()
    counters.clear()
    yield tmp_path / "compiled"
    torch.compiler.reset()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    # As on a GPU, but for the code that is made of a layer: that needs a compiler and half a minute.
    def compiled(forward: Any, fullgraph: bool, options: object) -> Any:
        return inductor(forward, fullgraph=fullgraph, backend="eager")

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: replayed)
    torch.manual_seed(1)
    return llama().eval()


def replayed(run: Run) -> tuple[Callable[[], object], torch.Tensor]:
    """What a GPU does with a recording, on the same memory: the first time with what was compiled for it."""
    output = run()
    return lambda: output.copy_(run()), output


async def answers_of(model: Any, count: int, **options: Any) -> list[list[int]]:
    async with engine_of(model, compile_steps=True, **options) as engine:
        embed = TokenEmbedder(model)
        return await asyncio.gather(*(tokens_of(engine.submit(embed(prompt), TWENTY)) for prompt in prompts(count)))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = (record for record in caplog.records if record.name.startswith("del_server"))
    return [record.message for record in ours if record.levelno >= logging.WARNING]


async def test_compiled_steps_give_what_others_give(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = [reference(model, prompt, 20) for prompt in prompts(3)]
    assert await answers_of(model, 3) == expected
    assert not warned(caplog)
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # of rows and positions, not of layers
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


async def test_sizes_do_not_each_have_code_of_their_own(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[int] = []

    def record(run: Run) -> tuple[Callable[[], object], torch.Tensor]:
        replay, output = replayed(run)
        made.append(len(output))
        return replay, output

    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: record)
    monkeypatch.setattr("del_server.engine.recorded.LEAST_POSITIONS", 8)
    expected = [reference(model, prompt, 20) for prompt in prompts(9)]
    assert await answers_of(model, 9, running=9, prefill_chunk=32) == expected
    assert not warned(caplog)
    assert len(set(made)) > 1
    assert counters["stats"]["unique_graphs"] <= 4 < len(made)


@pytest.mark.parametrize("adapter", [None, "one"])
async def test_an_answer_waits_for_no_code(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, adapter: str | None
) -> None:
    monkeypatch.setattr("del_server.engine.recorded.LEAST_POSITIONS", 8)
    if adapter is not None:
        lora.add_lora(model, adapter, 2)
    async with engine_of(model, compile_steps=True, running=9, prefill_chunk=32) as engine:
        made, embed = counters["stats"]["unique_graphs"], TokenEmbedder(model)
        for count in (1, 9, 2):
            answers = [engine.submit(embed(prompt), TWENTY, adapter) for prompt in prompts(count)]
            await asyncio.gather(*map(tokens_of, answers))
        assert counters["stats"]["unique_graphs"] == made > 0
    assert not warned(caplog)


async def test_a_size_too_many_is_recorded_as_it_is(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("del_server.engine.compiled.MOST_COMPILED", 1)
    # Answers outgrow their first size, whether or not their prompts come in together.
    monkeypatch.setattr("del_server.engine.recorded.LEAST_POSITIONS", 8)
    assert await answers_of(model, 4) == [reference(model, prompt, 20) for prompt in prompts(4)]
    assert warned(caplog) == ["the model's layers can't be compiled; steps go on without"]
    assert counters["stats"]["unique_graphs"] == 1


async def test_layers_that_can_not_be_compiled_are_recorded_as_they_are(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    assert await answers_of(model, 2) == [reference(model, prompt, 20) for prompt in prompts(2)]
    assert warned(caplog) == ["the model's layers can't be compiled; steps go on without"]


async def test_layers_that_change_what_they_give_are_recorded_as_they_are(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *args, **kwargs: 3 * forward(*args, **kwargs))
    assert await answers_of(model, 2) == [reference(model, prompt, 20) for prompt in prompts(2)]
    (said,) = warned(caplog)
    assert "of their range; steps go on without" in said


def test_a_model_that_names_no_layers_is_recorded_as_it_is(model: Any) -> None:
    model._no_split_modules = None
    _, output = CompiledSteps(model, replayed)(lambda: torch.ones(1))
    assert output.item() == 1


async def test_what_was_compiled_is_kept_where_nobody_else_writes(model: Any, kept: Path) -> None:
    await answers_of(model, 1)
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("make", [llama, gemma3], ids=lambda make: make.__name__)
async def test_asked_for_where_there_is_nothing_to_compile_it_is_refused(make: Callable[[], Any]) -> None:
    """A model on a CPU; one whose answers can't share passes, either."""
    with pytest.raises(InvalidValue, match=r"^compile is True: leave it out: that is for a model on one GPU"):
        await answers_of(make().eval(), 1)


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")  # the compiler's own, when imported
@pytest.mark.skipif(shutil.which("c++") is None, reason="what is compiled for a CPU takes a C++ compiler")
async def test_code_of_torchs_own_compiler_gives_what_others_give(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: replayed)
    torch.manual_seed(1)
    model = llama().eval()
    expected = [reference(model, prompt, 20) for prompt in prompts(3)]
    assert await answers_of(model, 3) == expected
    assert not warned(caplog)
    assert 0 < counters["stats"]["unique_graphs"] <= 4
