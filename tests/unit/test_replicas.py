"""Replicas: the least loaded gets the prompt, one that died is left out, and answers are those of one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from test_engine_parity import llama, prompts, reference, tokens_of

from del_codec.errors import DelError, ExhaustedError, InvalidValue, UnavailableError
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling
from del_server.engine.capacity import EngineConfig
from del_server.engine.replicas import Replicas
from del_server.engine.transformers import TransformersEngine
from del_server.engines import replica_devices

TWELVE = Sampling(12, ignore_eos=True)


def models(count: int) -> list[Any]:
    made = []
    for _ in range(count):
        torch.manual_seed(1)
        made.append(llama().eval())
    return made


@asynccontextmanager
async def replicas_of(replicas: list[Any], **options: Any) -> AsyncIterator[Replicas]:
    engine = Replicas([TransformersEngine(model, EngineConfig(**options)) for model in replicas])
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def test_answers_are_those_of_one_engine_and_all_replicas_work() -> None:
    replicas = models(3)
    embed, (begin, *rest) = TokenEmbedder(replicas[0]), prompts(7)
    async with replicas_of(replicas, running=2) as engine:
        assert (engine.capacity.running, engine.capacity.kv_tokens) == (6, 6 * 256)
        prefix = engine.prefix(embed(begin))
        generations = [engine.submit(embed(prompt), TWELVE, prefix=prefix) for prompt in rest]
        assert [one.load().running + one.load().waiting for one in engine._engines] == [2, 2, 2]
        scoring = engine.score(embed(rest[0]), [[7]], prefix=prefix)
        answers = await asyncio.gather(*map(tokens_of, generations))
        assert len((await scoring.result()).logprobs) == 1
        assert (engine.load().running, engine.load().waiting, engine.health().ok) == (0, 0, True)
    assert answers == [reference(replicas[0], begin + prompt, 12) for prompt in rest]
    assert engine.health().fatal


async def test_one_that_died_is_left_out_until_none_is_left() -> None:
    replicas = models(2)
    embed, chosen = TokenEmbedder(models(1)[0]), prompts(4)

    def broken(**inputs: Any) -> Any:
        raise RuntimeError("device-side assert triggered")

    async with replicas_of(replicas, probe_seconds=0.001, dead_seconds=0.0) as engine:
        whole = replicas[0].forward
        replicas[0].forward = broken
        while not engine._engines[0].health().fatal:
            await asyncio.sleep(0.001)
        assert engine.health().ok
        assert engine.health().detail.startswith("1 of 2 replicas answer (replica 0: ")
        answers = await asyncio.gather(*(tokens_of(engine.submit(embed(prompt), TWELVE)) for prompt in chosen))
        assert answers == [reference(models(1)[0], prompt, 12) for prompt in chosen]
        replicas[1].forward = broken
        while not engine.health().fatal:
            await asyncio.sleep(0.001)
        with pytest.raises(UnavailableError):
            engine.submit(embed(chosen[0]), TWELVE)
        replicas[0].forward = whole


async def test_a_full_replica_passes_a_prompt_on_until_all_are_full() -> None:
    replicas = models(2)
    embed = TokenEmbedder(replicas[0])
    async with replicas_of(replicas, running=1, waiting=1) as engine:
        held = [engine.submit(embed(prompts(1)[0]), Sampling(200, ignore_eos=True)) for _ in range(4)]
        with pytest.raises(ExhaustedError):
            engine.submit(embed(prompts(1)[0]), TWELVE)
        for generation in held:
            generation.cancel()
        assert all([len(await tokens_of(generation)) < 200 for generation in held])


async def test_if_one_can_not_start_none_does() -> None:
    replicas = models(2)
    replicas[1].forward = None
    engine = Replicas([TransformersEngine(model, EngineConfig()) for model in replicas])
    with pytest.raises(DelError, match="warm-up"):
        await engine.start()
    assert not engine.health().ok


def test_each_replica_has_a_gpu_of_its_own_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert replica_devices("auto", 1) == ["auto"]
    assert replica_devices("auto", 2) == replica_devices("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert replica_devices("auto", 2) == replica_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    with pytest.raises(InvalidValue, match="replicas is 3: this machine has 2"):
        replica_devices("auto", 3)
    with pytest.raises(InvalidValue, match="device is 'cuda:1'"):
        replica_devices("cuda:1", 2)
