"""Memory of keys and values: what is allocated, within which bound, and that nothing stays of rows that left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from test_engine_parity import engine_of, llama, prompts, tokens_of
from transformers import DynamicCache

from del_codec.errors import InvalidValue
from del_server import lora
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Reason, Sampling, Token
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.slots import SlotLayer, Slots, shapes_of
from del_server.engine.transformers import TransformersEngine

TWENTY = Sampling(20, ignore_eos=True)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(1)
    return llama().eval()


def slots_of(model: Any, *lengths: int, record: Any = None) -> Slots:
    """Rows of such lengths, a prompt of its own in each."""
    cache = DynamicCache(config=model.config)
    model(torch.ones(1, 1, dtype=torch.long), past_key_values=cache)
    slots = Slots(shapes_of(cache), record)
    for row, length in enumerate(lengths):
        slots.open()
        slots.enter(model, row, [TokenEmbedder(model)([length] * length)])
        slots.advance(row, length)
    return slots


def step(slots: Slots, model: Any, ids: list[int]) -> torch.Tensor:
    return slots.step(model, ids, torch.device("cpu"))


def test_bounds_of_memory(model: Any) -> None:
    assert capacity_of(model, EngineConfig(running=3)).kv_tokens == 3 * 256
    with pytest.raises(InvalidValue, match="kv-tokens is 255"):
        capacity_of(model, EngineConfig(kv_tokens=255))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(torch.ones(1, 5, dtype=torch.long), past_key_values=cache)
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    token = capacity_of(model, EngineConfig()).kv_token_bytes
    assert token == held / 5
    # Four for each token of three layers: a layer is there twice while it grows.
    bounded = capacity_of(model, EngineConfig(kv_bytes=10 * token + 400 * token, prefix_tokens=10))
    assert (bounded.kv_tokens, bounded.kv_bytes) == (300, 410 * token)
    with pytest.raises(InvalidValue, match=f"kv-bytes is {token}: use 0 or at least"):
        capacity_of(model, EngineConfig(kv_bytes=token))


async def test_the_memory_that_is_allocated_keeps_to_the_bound(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all buffers at any time, watched where they are made."""
    alive: dict[int, int] = {}
    most = [0]
    whole = SlotLayer.resize

    def watched(layer: SlotLayer, rows: int, tokens: int) -> None:
        before = layer.keys.nbytes + layer.values.nbytes
        whole(layer, rows, tokens)
        alive[id(layer)] = layer.keys.nbytes + layer.values.nbytes
        most[0] = max(most[0], sum(alive.values()) + before)

    monkeypatch.setattr(SlotLayer, "resize", watched)
    token = capacity_of(model, EngineConfig()).kv_token_bytes
    lora.add_lora(model, "one", 4)
    async with engine_of(model, running=8, kv_bytes=800 * token, prefix_tokens=0) as engine:
        embed = TokenEmbedder(model)
        alive.clear()
        most[0] = 0
        answers = [
            engine.submit(embed(prompt), Sampling(10 + 25 * index, ignore_eos=True), "one" if index % 3 == 0 else None)
            for index, prompt in enumerate(prompts(8))
        ]
        kept: list[int] = []

        async def read(generation: Any) -> int:
            count = 0
            async for event in generation:
                kept.append(engine.load().kv_bytes)
                count += isinstance(event, Token)
            return count

        counts = await asyncio.gather(*map(read, answers))
        assert list(counts) == [10 + 25 * index for index in range(8)]
        assert 0 < max(kept) <= engine.capacity.kv_bytes
        assert 400 * token < most[0] <= engine.capacity.kv_bytes
    assert engine.capacity.kv_bytes <= 800 * token


@torch.inference_mode()
def test_buffers_shrink_when_little_of_them_is_used(model: Any) -> None:
    slots = slots_of(model, 100, 100, 100, 100, 100, 100, 100, 2)
    full = slots.bytes
    slots.move(7, 0)
    before = step(slots, model, [5])
    for _ in range(7):
        slots.close()
    assert slots.bytes < full / 10
    assert torch.allclose(step(slots, model, [5]), before[:1], atol=1e-5)
    slots.close()
    assert slots.bytes == 0


@torch.inference_mode()
def test_rows_move_up_and_nothing_of_those_that_left_stays(model: Any) -> None:
    slots = slots_of(model, 3, 9, 5)
    before = step(slots, model, [7, 7, 7])
    slots.move(2, 0)
    slots.close()
    assert slots.lengths == [5, 9]
    assert torch.allclose(step(slots, model, [7, 7]), before[[2, 1]], atol=1e-5)
    slots.swap(0, 1)
    assert slots.lengths == [9, 5]
    assert torch.allclose(step(slots, model, [7, 7]), before[[1, 2]], atol=1e-5)
    longest = slots._tokens
    slots.bound(10_000)
    slots.open()
    for _ in range(3):
        slots.close()
    assert slots._tokens <= longest
    assert not any(bool(part.any()) for layer in slots._layers for part in (layer.keys, layer.values))


async def test_an_idle_engine_holds_no_slots(model: Any) -> None:
    engine = TransformersEngine(model, EngineConfig())
    await engine.start()
    embed = TokenEmbedder(model)
    cancelled = engine.submit(embed(prompts(1)[0]), Sampling(200, ignore_eos=True))
    await tokens_of(engine.submit(embed(prompts(2)[1]), TWENTY))
    cancelled.cancel()
    reasons = [event async for event in cancelled if not isinstance(event, Token)]
    assert [event.reason for event in reasons] == [Reason.CANCELLED]
    assert engine._batches is not None
    assert (len(engine._batches), engine._batches.bytes, engine._running) == (0, 0, [])
    assert engine.load().kv_bytes == 0
    await engine.stop()
