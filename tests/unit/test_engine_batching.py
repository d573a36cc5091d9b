"""Continuous batching: who decodes together, what that takes of memory, prefixes that are computed once, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_engine_parity import engine_of, gemma2, llama, prompts, reference, tokens_of
from transformers import DynamicCache

from del_codec.errors import EngineError, ExhaustedError, InvalidValue, UnavailableError
from del_server import lora
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Prefix, Reason, Sampling, Token
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.prefixes import Prefixes
from del_server.engine.probing import shared_layers
from del_server.engine.recorded import bucket_of_positions, bucket_of_rows
from del_server.engine.slots import SlotLayer, Slots, shapes_of
from del_server.engine.transformers import TransformersEngine

TWENTY = Sampling(20, ignore_eos=True)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(1)
    return llama().eval()


def rows_of_steps(model: Any) -> list[int]:
    """Rows of each decode step from now on."""
    rows: list[int] = []
    whole = model.forward

    def counted(**inputs: Any) -> Any:
        if inputs.get("input_ids") is not None:
            rows.append(len(inputs["input_ids"]))
        return whole(**inputs)

    model.forward = counted
    return rows


def failing(model: Any, at_fault: Callable[[torch.Tensor], bool]) -> None:
    """From now on the model fails at a decode step of such ids [N, 1]."""
    whole = model.forward

    def fail(**inputs: Any) -> Any:
        ids = inputs.get("input_ids")
        if ids is not None and at_fault(ids):
            raise RuntimeError("device-side assert triggered")
        return whole(**inputs)

    model.forward = fail


async def test_all_that_run_share_a_step(model: Any) -> None:
    async with engine_of(model) as engine:
        rows, embed = rows_of_steps(model), TokenEmbedder(model)
        answers = await asyncio.gather(*(tokens_of(engine.submit(embed(p), TWENTY)) for p in prompts(5)))
    assert max(rows) == 5
    assert len(rows) < 2 * 20
    assert answers == [reference(model, prompt, 20) for prompt in prompts(5)]


async def test_a_model_of_sliding_windows_goes_one_by_one() -> None:
    torch.manual_seed(1)
    model = gemma2().eval()
    assert shared_layers(model) is None
    async with engine_of(model) as engine:
        rows, embed = rows_of_steps(model), TokenEmbedder(model)
        await asyncio.gather(*(tokens_of(engine.submit(embed(prompt), TWENTY)) for prompt in prompts(3)))
    assert set(rows) == {1}


def test_a_model_that_reads_rows_otherwise_is_found_out(model: Any) -> None:
    assert shared_layers(model)
    whole = model.forward
    model.forward = lambda **inputs: whole(**{**inputs, "position_ids": None})
    assert shared_layers(model) is None


async def test_a_failing_step_is_tried_row_by_row(model: Any) -> None:
    embed, chosen = TokenEmbedder(model), prompts(4)
    expected = [reference(model, prompt, 20) for prompt in chosen]
    culprit = next(token for token in expected[2][3:] if not any(token in expected[i] for i in (0, 1, 3)))
    async with engine_of(model) as engine:
        failing(model, lambda ids: bool((ids == culprit).any()))
        outcomes = await asyncio.gather(
            *(tokens_of(engine.submit(embed(prompt), TWENTY)) for prompt in chosen), return_exceptions=True
        )
        assert isinstance(outcomes[2], EngineError)
        assert [outcomes[i] for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]
        assert engine.health().ok


async def test_a_prefix_is_as_if_it_stood_in_the_prompt_and_is_computed_once(model: Any) -> None:
    embed, (begin, *rest) = TokenEmbedder(model), prompts(4)
    seen: list[int] = []
    async with engine_of(model, prefill_chunk=4) as engine:
        prefix, whole = engine.prefix(embed(begin)), model.forward

        def counted(**inputs: Any) -> Any:
            seen.append(inputs["inputs_embeds"].shape[1] if inputs.get("inputs_embeds") is not None else 0)
            return whole(**inputs)

        model.forward = counted
        generations = [engine.submit(embed(prompt), TWENTY, prefix=prefix) for prompt in rest]
        answers = await asyncio.gather(*map(tokens_of, generations))
        scored = await engine.score(embed(rest[0]), [[7], [9, 8]], prefix=prefix).result()
        model.forward = whole
        plain = await engine.score(embed(begin + rest[0]), [[7], [9, 8]]).result()
    assert answers == [reference(model, begin + prompt, 20) for prompt in rest]
    assert sum(seen) == len(begin) + sum(map(len, rest)) + len(rest[0])
    for found, expected in zip(scored.logprobs, plain.logprobs, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


async def test_a_prefix_of_a_model_with_windows() -> None:
    torch.manual_seed(1)
    model = gemma2().eval()
    embed, (_, begin, *rest) = TokenEmbedder(model), prompts(4)
    async with engine_of(model) as engine:
        prefix = engine.prefix(embed(begin))
        for prompt in rest:
            assert await tokens_of(engine.submit(embed(prompt), TWENTY, prefix=prefix)) == reference(
                model, begin + prompt, 20
            )


async def test_prefix_and_prompt_must_fit_the_context_together(model: Any) -> None:
    async with engine_of(model) as engine:
        prefix = engine.prefix(torch.ones(200, 32))
        with pytest.raises(InvalidValue, match="send 1 to 55"):
            engine.submit(torch.ones(56, 32), TWENTY, prefix=prefix)
        with pytest.raises(InvalidValue, match="not finite"):
            engine.prefix(torch.full((2, 32), torch.nan))


def test_prefixes_keep_to_their_bound_and_those_used_last(model: Any) -> None:
    kept = Prefixes(tokens=10, chunk=4)
    one, two, three = (Prefix(torch.full((n, 32), 0.1)) for n in (5, 5, 4))
    for prefix in (one, two, one, three):
        assert kept.begin(model, prefix, None).get_seq_length() == prefix.tokens
    assert kept.tokens == 9
    calls = rows_of_steps(model)
    assert kept.begin(model, one, None).get_seq_length() == 5
    assert calls == []
    kept.begin(model, Prefix(torch.full((11, 32), 0.1)), None)
    assert kept.tokens == 0


async def test_each_adapter_has_batches_and_prefixes_of_its_own(model: Any) -> None:
    lora.add_lora(model, "one", 4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    embed, (begin, prompt, *_) = TokenEmbedder(model), prompts(3)
    names = [None, "one", "one", None]
    expected = {}
    for name in (None, "one"):
        lora.use(model, name)
        expected[name] = reference(model, begin + prompt, 20)
    assert expected[None] != expected["one"]
    async with engine_of(model) as engine:
        prefix = engine.prefix(embed(begin))
        generations = [engine.submit(embed(prompt), TWENTY, name, prefix) for name in names]
        assert await asyncio.gather(*map(tokens_of, generations)) == [expected[name] for name in names]


async def test_memory_is_admitted_by_what_a_prompt_may_come_to_take(model: Any) -> None:
    async with engine_of(model, running=4, kv_tokens=256) as engine:
        embed, most = TokenEmbedder(model), []
        long = Sampling(120, ignore_eos=True)
        generations = [engine.submit(embed(prompts(1)[0]), long) for _ in range(4)]

        async def watch(generation: Any) -> list[int]:
            tokens = []
            async for event in generation:
                most.append((engine.load().running, engine.load().kv_tokens))
                tokens += [event.token_id] if isinstance(event, Token) else []
            return tokens

        answers = await asyncio.gather(*map(watch, generations))
        assert answers == [reference(model, prompts(1)[0], 120)] * 4
        assert max(most) == (2, 2 * 125)
        assert engine.load().kv_tokens == 0


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


async def test_a_long_prompt_does_not_stall_the_others(model: Any) -> None:
    async with engine_of(model, prefill_chunk=4) as engine:
        embed, order = TokenEmbedder(model), []

        async def first(name: str, ids: list[int]) -> None:
            async for event in engine.submit(embed(ids), Sampling(3, ignore_eos=True)):
                if isinstance(event, Token):
                    order.append(name)

        await asyncio.gather(first("long", [9] * 200), *(first("short", [8, 7]) for _ in range(3)))
        assert order == ["short"] * 9 + ["long"] * 3


def replayed(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
    """What a GPU does with a recording: run the same again, on the same memory."""
    output = run()
    return lambda: output.copy_(run()), output


async def test_recorded_steps_give_what_others_give(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings: list[torch.Tensor] = []

    def record(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        replay, output = replayed(run)
        recordings.append(output)
        return replay, output

    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: record)
    monkeypatch.setattr("del_server.engine.recorded.LEAST_POSITIONS", 8)
    long = Sampling(60, ignore_eos=True)
    async with engine_of(model, prefill_chunk=16) as engine:
        embed, chosen = TokenEmbedder(model), prompts(7)
        answers = await asyncio.gather(*(tokens_of(engine.submit(embed(prompt), long)) for prompt in chosen))
    assert answers == [reference(model, prompt, 60) for prompt in chosen]
    rows = [len(output) for output in recordings]
    assert set(rows) >= {1, 2, 4}  # of seven: some steps had more rows than sequences
    assert len(rows) < 60


@torch.inference_mode()
def test_a_recorded_step_leaves_rows_alone_that_only_fill_it_up(model: Any) -> None:
    slots, plain = slots_of(model, 3, 4, 5, 20, 6, record=replayed), slots_of(model, 3, 4, 5, 20, 6)
    held = [layer.keys[3:, :, :20].clone() for layer in slots._layers]
    assert torch.allclose(step(slots, model, [7, 8, 9]), step(plain, model, [7, 8, 9]), atol=1e-5)
    assert slots._tokens > 20
    for layer, before in zip(slots._layers, held, strict=True):
        assert torch.equal(layer.keys[3, :, :20], before[0])
        assert torch.equal(layer.keys[4, :, :6], before[1, :, :6])


async def test_where_steps_can_not_be_recorded_they_go_on_without(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def record(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("del_server.engine.transformers.recorder_of", lambda _: record)
    async with engine_of(model) as engine:
        answers = await asyncio.gather(*(tokens_of(engine.submit(TokenEmbedder(model)(p), TWENTY)) for p in prompts(3)))
    assert answers == [reference(model, prompt, 20) for prompt in prompts(3)]
    assert [record.message for record in caplog.records].count(
        "decode steps can't be recorded here; they go on without"
    ) == 1


@pytest.mark.parametrize(
    ("rows", "most", "bucket"), [(1, 9, 1), (2, 9, 2), (3, 9, 4), (5, 9, 8), (9, 9, 9), (16, 40, 16)]
)
def test_recordings_have_powers_of_two_of_rows(rows: int, most: int, bucket: int) -> None:
    assert bucket_of_rows(rows, most) == bucket


def test_recordings_see_at_most_a_quarter_more_than_they_need() -> None:
    for positions in range(1, 20_000, 7):
        seen = bucket_of_positions(positions, 1 << 20)
        assert positions <= seen <= max(128, 1.25 * positions + 128)
        assert bucket_of_positions(positions, positions) == positions


async def test_a_reader_that_does_not_read_ends_its_own_answer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("del_server.engine.events.UNREAD", 10)
    async with engine_of(model) as engine:
        embed = TokenEmbedder(model)
        slow = engine.submit(embed(prompts(1)[0]), Sampling(200, ignore_eos=True))
        quick = await tokens_of(engine.submit(embed(prompts(2)[1]), Sampling(60, ignore_eos=True)))
        while engine.load().running:
            await asyncio.sleep(0.001)
        assert quick == reference(model, prompts(2)[1], 60)
        seen: list[int] = []

        async def read() -> None:
            async for event in slow:
                seen.append(event.token_id)

        with pytest.raises(ExhaustedError, match="wait to be read"):
            await read()
        assert seen == reference(model, prompts(1)[0], 200)[: len(seen)]
        assert len(seen) < 20
        assert engine.health().ok


async def test_an_engine_whose_steps_go_on_failing_gives_up(model: Any) -> None:
    whole = model.forward
    engine = TransformersEngine(model, EngineConfig(probe_seconds=0.001, dead_seconds=0.05))
    await engine.start()

    def broken(**inputs: Any) -> Any:
        raise RuntimeError("device-side assert triggered")

    model.forward = broken
    answer = engine.submit(TokenEmbedder(model)(prompts(1)[0]), TWENTY)
    with pytest.raises(EngineError):
        await tokens_of(answer)
    assert not engine.health().ok
    while not engine.health().fatal:
        await asyncio.sleep(0.001)
    with pytest.raises(UnavailableError):
        engine.submit(TokenEmbedder(model)(prompts(1)[0]), TWENTY)
    model.forward = whole
    await engine.stop()


async def test_an_answer_whose_loop_has_closed_leaves_its_slot(model: Any) -> None:
    closed, steps, whole = threading.Event(), [0], model.forward

    def held(**inputs: Any) -> Any:
        if inputs.get("input_ids") is not None:
            closed.wait()
            steps[0] += 1
        return whole(**inputs)

    async with engine_of(model) as engine:
        prompt, model.forward = TokenEmbedder(model)(prompts(1)[0]), held

        async def ask() -> None:
            await anext(aiter(engine.submit(prompt, Sampling(250, ignore_eos=True))))

        await asyncio.to_thread(asyncio.run, ask())
        closed.set()
        while engine.load().running:
            await asyncio.sleep(0.001)
        assert steps[0] <= 1
        model.forward = whole
        assert await tokens_of(engine.submit(prompt, TWENTY)) == reference(model, prompts(1)[0], 20)
