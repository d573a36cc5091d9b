"""Decode steps that are compiled before they are recorded: the same answers, and one layer's code for all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_engine_parity import engine_of, llama, prompts, reference, tokens_of
from torch._dynamo.utils import counters

from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling
from del_server.engine.compiled import CompiledSteps

TWENTY = Sampling(20, ignore_eos=True)
Run = Callable[[], torch.Tensor]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    # As on a GPU, but for the code that is made of a layer: that needs a compiler and half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: replayed)
    torch.manual_seed(1)
    torch.compiler.reset()
    counters.clear()
    return llama().eval()


def replayed(run: Run) -> tuple[Callable[[], object], torch.Tensor]:
    """What a GPU does with a recording, on the same memory: the first time with what was compiled for it."""
    output = run()
    return lambda: output.copy_(run()), output


async def answers_of(model: Any, count: int) -> list[list[int]]:
    async with engine_of(model, compile_steps=True) as engine:
        embed = TokenEmbedder(model)
        return await asyncio.gather(*(tokens_of(engine.submit(embed(prompt), TWENTY)) for prompt in prompts(count)))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_compiled_steps_give_what_others_give(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    expected = [reference(model, prompt, 20) for prompt in prompts(3)]
    assert await answers_of(model, 3) == expected
    assert not warned(caplog)
    assert 0 < counters["stats"]["unique_graphs"] <= 4  # of rows and positions, not of layers
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)


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


def test_a_model_that_names_no_layers_is_recorded_as_it_is() -> None:
    model = torch.nn.Linear(2, 2)
    model.get_input_embeddings = lambda: model  # type: ignore[assignment]
    _, output = CompiledSteps(model, replayed)(lambda: torch.ones(1))
    assert output.item() == 1
