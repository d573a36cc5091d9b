"""What is vLLM's alone: its settings, its LoRAs, what it keeps for whom, and its death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from del_codec.errors import EngineError, InvalidValue, MismatchError, UnavailableError
from del_server import lora
from del_server.engine.base import Engine, Generation, Sampling, Token
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.transformers import TransformersEngine

pytest.importorskip("vllm")
from engine_faults import MARK
from vllm_faults import RUNNING, Kept, VllmFaults, Wide

from del_server.engine.vllm.arguments import CPU_KV_BYTES, Adapters, engine_args

pytestmark = pytest.mark.asyncio(loop_scope="module")
IDS = list(range(40, 60))


@pytest.fixture(scope="module")
def adapted(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model in transformers with a LoRA that does something, and the LoRA's folder."""
    model, folder = AutoModelForCausalLM.from_pretrained(wide_model).eval(), tmp_path_factory.mktemp("lora")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lora.add_lora(model, "one", 4):
            parameter.copy_(torch.randn_like(parameter).mul(0.2).half())
    lora.save_lora(model, "one", folder)
    return model, folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_lora(
    wide_model: Path, adapted: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Wide, Any]]:
    wide = Wide(wide_model, VllmFaults(tmp_path_factory.mktemp("faults")))
    noted = lora.LoraFolders()
    noted.note(None, adapted[1])
    llm = await wide.launch(Adapters(1, noted.rank, frozenset(noted.layers)))
    yield wide, llm
    llm.shutdown()


def reference(model: Any, adapter: str | None, tokens: int) -> list[int]:
    lora.use(model, adapter)
    ids = torch.tensor([IDS])
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    return [int(token) for token in out[0, len(IDS) :]]


async def tokens_of(generation: Generation) -> list[int]:
    return [event.token_id async for event in generation if isinstance(event, Token)]


def answer(engine: Engine, wide: Wide, adapter: str | None = None, **options: Any) -> Generation:
    return engine.submit(wide.embed(IDS), Sampling(16, ignore_eos=True, **options), adapter)


async def test_each_answer_has_its_lora_and_no_other(with_lora: tuple[Wide, Any], adapted: tuple[Any, Path]) -> None:
    (wide, llm), (model, folder) = with_lora, adapted
    engine = wide.engine(Kept(llm), {"one": folder})
    await engine.start()
    assert engine.capacity.kv_tokens == RUNNING * engine.capacity.context_tokens
    plain, changed = reference(model, None, 16), reference(model, "one", 16)
    assert plain != changed
    names = ["one", None, "one", None, "one"]

    async def later(place: int) -> list[int]:
        await asyncio.sleep(0.01 * place)
        return await tokens_of(answer(engine, wide, names[place]))

    for _ in range(3):
        found = await asyncio.gather(*map(later, range(len(names))))
        assert found == [changed if name else plain for name in names]
    with pytest.raises(InvalidValue, match="adapter is 'two'"):
        answer(engine, wide, "two")
    await engine.stop()


async def test_draws_are_those_of_the_transformers_engine_and_resumed_ones_go_on(with_lora: tuple[Wide, Any]) -> None:
    wide, llm = with_lora
    engine = wide.engine(Kept(llm))
    await engine.start()
    options = {"temperature": 1.5, "top_p": 0.95, "seed": 11, "repetition_penalty": 1.3}
    ours = TransformersEngine(AutoModelForCausalLM.from_pretrained(wide.folder), EngineConfig())
    await ours.start()
    whole = await tokens_of(answer(engine, wide, **options))
    for chosen in (options, {"repetition_penalty": 1.3}, {}):
        assert await tokens_of(answer(engine, wide, **chosen)) == await tokens_of(answer(ours, wide, **chosen))
    await ours.stop()
    for cut in (1, 7):
        sampling = Sampling(16, ignore_eos=True, position=cut, before=tuple(whole[:cut]), **options)
        rest = await tokens_of(engine.submit(wide.embed(IDS + whole[:cut]), sampling))
        assert whole[:cut] + rest == whole
    await engine.stop()


class Watched(Kept):
    """vLLM, and how many of each prompt's tokens it had kept."""

    def __init__(self, llm: Any) -> None:
        super().__init__(llm)
        self.kept: list[int] = []

    async def generate(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        async for output in self._llm.generate(*arguments, **options):
            if output.num_cached_tokens is not None and output.outputs[0].token_ids:
                self.kept.append(output.num_cached_tokens)
            yield output


async def test_what_is_kept_of_a_prompt_is_for_its_caller_alone(with_lora: tuple[Wide, Any]) -> None:
    wide, llm = with_lora
    watched = Watched(llm)
    engine = wide.engine(watched)
    await engine.start()
    soft, rest = wide.embed([7] * 64), wide.embed([8, 9])
    prefix = engine.prefix(soft)
    watched.kept.clear()
    for caller in ("ada", "ada", "bob", "bob", "ada"):
        await tokens_of(engine.submit(rest, Sampling(1), prefix=prefix, caller=caller))
    assert watched.kept == [0, 64, 0, 64, 64]
    await engine.stop()


async def test_a_model_whose_embeddings_vllm_would_read_otherwise_is_not_served(with_lora: tuple[Wide, Any]) -> None:
    wide, llm = with_lora
    engine, own = wide.engine(Kept(llm)), wide.embed

    def scaled(ids: Sequence[int]) -> Tensor:
        return 0.1 * own(ids)

    engine._embed = scaled
    with pytest.raises(MismatchError, match="--engine transformers"):
        await engine.start()
    assert not engine.health().ok


async def test_a_vllm_that_does_not_start(with_lora: tuple[Wide, Any]) -> None:
    engine = with_lora[0].engine(None)

    def fail() -> None:
        raise RuntimeError("no room\nfor keys and values")

    engine._launch = fail
    with pytest.raises(EngineError, match="did not start: no room"):
        await engine.start()
    assert not engine.health().ok
    with pytest.raises(UnavailableError):
        engine.submit(with_lora[0].embed(IDS), Sampling(1))


async def test_a_failure_of_the_model_ends_vllm_and_health_says_so_at_once(with_lora: tuple[Wide, Any]) -> None:
    wide, llm = with_lora
    engine = wide.engine(llm, running=2)
    await engine.start()
    assert engine.health().ok
    neighbour = answer(engine, wide)
    broken = engine.submit(torch.full((4, 32), MARK), Sampling(4))
    waiting = answer(engine, wide)
    for each in (broken, neighbour, waiting):
        with pytest.raises(UnavailableError, match=r"died|stopped"):
            await tokens_of(each)
    health = engine.health()
    assert (health.ok, health.fatal) == (False, True)
    assert (engine.load().running, engine.load().waiting) == (0, 0)
    with pytest.raises(UnavailableError):
        answer(engine, wide)
    await engine.stop()


def settings(wide_model: Path, passed: dict[str, object], adapters: Adapters | None = None, kv_tokens: int = 0) -> Any:
    from del_server.embedding_model import load_embedding_model

    capacity = capacity_of(load_embedding_model(str(wide_model), torch.float32), EngineConfig(running=3))
    return engine_args(str(wide_model), capacity, passed, adapters or Adapters(), kv_tokens)


async def test_settings_are_passed_through(wide_model: Path) -> None:
    passed = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray", "quantization": "fp8"}
    args = settings(wide_model, passed)
    assert {name: getattr(args, name) for name in passed} == passed
    assert (args.max_num_seqs, args.max_model_len, args.dtype) == (3, 512, "float32")
    assert not args.trust_remote_code


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("tensor_paralel_size", 2, "tensor_parallel_size"),
        ("no such thing", 2, "AsyncEngineArgs"),
        ("max_model_len", 2, "--context"),
        ("dtype", "half", "--dtype"),
        ("trust_remote_code", True, "leave it out"),
        ("load_format", "pt", "unpickle"),
        ("_api_process_rank", 1, "no such setting"),
    ],
)
async def test_settings_that_can_not_be_passed_through(wide_model: Path, name: str, value: object, remedy: str) -> None:
    with pytest.raises(InvalidValue, match=remedy):
        settings(wide_model, {name: value})


async def test_memory_of_keys_and_values_is_bounded(wide_model: Path) -> None:
    each = 2 * 2 * 2 * 32 * 4
    assert settings(wide_model, {}).kv_cache_memory_bytes == 3 * 512 * each < CPU_KV_BYTES
    assert settings(wide_model, {}, kv_tokens=600).kv_cache_memory_bytes == 600 * each
    halved = settings(wide_model, {"tensor_parallel_size": 2}, kv_tokens=600)
    assert halved.kv_cache_memory_bytes == 300 * each


async def test_loras_have_a_rank_that_vllm_has_kernels_for(wide_model: Path) -> None:
    args = settings(wide_model, {}, Adapters(2, 20, frozenset({"v_proj", "q_proj"})))
    assert (args.enable_lora, args.max_loras, args.max_lora_rank) == (True, 3, 32)
    assert args.lora_target_modules == ["q_proj", "v_proj"]
    assert not settings(wide_model, {}).enable_lora
