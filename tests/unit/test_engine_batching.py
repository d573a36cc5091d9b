"""Continuous batching: who decodes together, what is admitted, prefixes that are computed once, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_engine_parity import engine_of, gemma2, llama, prompts, reference, tokens_of

from del_codec.errors import EngineError, ExhaustedError, InvalidValue, UnavailableError
from del_server import lora
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Prefix, Sampling, Token
from del_server.engine.batches import MOST_PUT_OFF, Batches
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.outbox import Outbox
from del_server.engine.prefixes import Prefixes
from del_server.engine.probing import shared_layers
from del_server.engine.sequence import Sequence
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_rows_otherwise_is_found_out(model: Any, dtype: torch.dtype) -> None:
    model.to(dtype)
    assert shared_layers(model)
    whole = model.forward
    model.forward = lambda **inputs: whole(**{**inputs, "position_ids": None})
    assert shared_layers(model) is None


@pytest.mark.parametrize(("noise", "told_apart"), [(0.015, True), (0.06, False)])
def test_a_type_of_few_digits_may_differ_as_much_as_it_differs_from_itself(
    model: Any, noise: float, told_apart: bool
) -> None:
    model.to(torch.bfloat16)
    whole = model.forward

    def noisy(**inputs: Any) -> Any:
        output = whole(**inputs)
        span = output.logits.max() - output.logits.min()
        output.logits += noise * span * torch.randn_like(output.logits)
        return output

    model.forward = noisy
    assert bool(shared_layers(model)) is told_apart


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


async def test_a_long_prompt_does_not_stall_the_others(model: Any) -> None:
    async with engine_of(model, prefill_chunk=4) as engine:
        embed, order = TokenEmbedder(model), []

        async def first(name: str, ids: list[int]) -> None:
            async for event in engine.submit(embed(ids), Sampling(3, ignore_eos=True)):
                if isinstance(event, Token):
                    order.append(name)

        await asyncio.gather(first("long", [9] * 200), *(first("short", [8, 7]) for _ in range(3)))
        assert order == ["short"] * 9 + ["long"] * 3


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([8] * 6, [True] * MOST_PUT_OFF + [False, True, False]), ([8, 40], [False] * 4 + [True, False])],
    ids=["short ones", "a long one but for its end"],
)
async def test_a_step_waits_for_short_prompts_and_not_for_ever(
    model: Any, lengths: list[int], expected: list[bool]
) -> None:
    capacity, embed = capacity_of(model, EngineConfig()), TokenEmbedder(model)
    shapes = shared_layers(model)
    assert shapes
    batches = Batches(model, shapes, Prefixes(0, 8), kv_tokens=4096)
    put_off = []
    with torch.inference_mode():
        for length in lengths:
            prompt = embed(range(length))
            batches.seat(Sequence(prompt, TWENTY, capacity, None, None, Outbox(), lambda _: None))
        for _ in expected:
            assert all(outcome is None for outcomes in batches.enter(8) for _, outcome in outcomes)
            put_off.append(batches.put_off(8))
    assert put_off == expected


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
