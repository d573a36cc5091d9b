"""What every engine must do. A new engine joins by a fixture, start_NAME, and its name in engine_faults.ENGINES."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterable, Callable
from pathlib import Path

import pytest
import torch
from engine_faults import ENGINES, MARK, Faults, StartEngine
from torch import Tensor
from transformers import AutoModelForCausalLM

from del_codec.errors import EngineError, ExhaustedError, InvalidValue, UnavailableError
from del_server.engine.base import Event, Finish, Reason, Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine

# vLLM serves one event loop, and one of it serves all tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDLESS = Sampling(10_000, ignore_eos=True)


@pytest.fixture(params=ENGINES)
def start_engine(request: pytest.FixtureRequest) -> StartEngine:
    """A context manager: a started engine and its model's faults; keyword arguments are its bounds."""
    start: StartEngine = request.getfixturevalue(f"start_{request.param}")
    return start


# A failure of the model ends vLLM, see test_vllm_engine.
surviving = pytest.mark.parametrize("start_engine", ["transformers"], indirect=True)


def prompt(tokens: int = 4, value: float = 0.1) -> Tensor:
    return torch.full((tokens, 32), value)


async def events_of(events: AsyncIterable[Event]) -> list[Event]:
    return [event async for event in events]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def test_tokens_then_one_finish(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        events = await events_of(engine.submit(prompt(), Sampling(5, ignore_eos=True)))
        assert [type(event) for event in events] == [Token] * 5 + [Finish]
        assert events[-1].reason is Reason.LENGTH
        assert events[-1].queue_seconds >= 0
        assert events[-1].prefill_seconds > 0


async def test_an_end_of_sequence_token_ends_the_answer_and_is_part_of_it(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        sampling = Sampling(500, temperature=5.0, seed=6)
        events = await events_of(engine.submit(prompt(), sampling))
        (eos,) = engine.capacity.eos_token_ids
        tokens = [event.token_id for event in events if isinstance(event, Token)]
        assert tokens.index(eos) == len(tokens) - 1
        assert events[-1].reason is Reason.STOP
        beyond = Sampling(len(tokens) + 3, temperature=5.0, seed=6, ignore_eos=True)
        events = await events_of(engine.submit(prompt(), beyond))
        assert [event.token_id for event in events if isinstance(event, Token)][: len(tokens)] == tokens
        assert events[-1].reason is Reason.LENGTH


async def test_the_context_ends_an_answer(start_engine: StartEngine) -> None:
    async with start_engine(context_tokens=20) as (engine, _):
        assert engine.capacity.context_tokens == 20
        events = await events_of(engine.submit(prompt(15), ENDLESS))
        assert len(events) == 5 + 1
        assert events[-1].reason is Reason.LENGTH


async def test_tokens_that_came_before_count(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        events = await events_of(engine.submit(prompt(), Sampling(5, ignore_eos=True, position=3)))
        assert len(events) == 2 + 1


async def test_log_probabilities_where_asked_for(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        first = (await events_of(engine.submit(prompt(), Sampling(1, logprobs=3))))[0]
        assert first.logprobs.top[0] == (first.token_id, first.logprobs.chosen)
        assert len(first.logprobs.top) == 3
        assert (await events_of(engine.submit(prompt(), Sampling(1, logprobs=0))))[0].logprobs.top == ()
        assert (await events_of(engine.submit(prompt(), Sampling(1))))[0].logprobs is None


@pytest.mark.parametrize(
    "bad",
    [
        torch.full((4, 31), 0.1),
        torch.full((4, 33), 0.1),
        torch.full((32,), 0.1),
        torch.full((1, 4, 32), 0.1),
        torch.full((0, 32), 0.1),
        torch.full((512, 32), 0.1),
        torch.full((4, 32), 0.1, dtype=torch.float64),
        torch.full((4, 32), 1),
        torch.full((4, 32), torch.nan),
        torch.tensor([[0.1] * 31 + [torch.inf]]),
        torch.tensor([[0.1] * 31 + [-torch.inf]]),
    ],
    ids=lambda bad: f"{list(bad.shape)}-{bad.dtype}-{float(bad.float().sum())}",
)
async def test_what_the_model_must_not_see_is_refused_and_others_go_on(start_engine: StartEngine, bad: Tensor) -> None:
    async with start_engine() as (engine, _):
        neighbour = engine.submit(prompt(), Sampling(5, ignore_eos=True))
        with pytest.raises(InvalidValue, match="prompt is"):
            engine.submit(bad, ENDLESS)
        assert len(await events_of(neighbour)) == 5 + 1
        assert engine.load().running == 0


async def test_several_answers_proceed_at_once(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        long = engine.submit(prompt(), ENDLESS)
        events = aiter(long)
        assert isinstance(await anext(events), Token)
        assert len(await events_of(engine.submit(prompt(), Sampling(5, ignore_eos=True)))) == 5 + 1
        assert engine.load().running == 1
        long.cancel()
        assert (await events_of(events))[-1].reason is Reason.CANCELLED


async def test_cancellation_frees_the_slot_within_a_step(start_engine: StartEngine) -> None:
    async with start_engine(running=1) as (engine, faults):
        long, waiting = engine.submit(prompt(), ENDLESS), engine.submit(prompt(), Sampling(2, ignore_eos=True))
        events = aiter(long)
        await anext(events)
        assert (engine.load().running, engine.load().waiting) == (1, 1)
        faults.open.clear()
        long.cancel()
        steps = faults.steps
        faults.open.set()
        tail = await events_of(events)
        assert tail[-1].reason is Reason.CANCELLED
        assert engine.load().running <= 1
        assert len(await events_of(waiting)) == 2 + 1
        # At most the step that was under way, then the two of the next in the queue.
        assert faults.steps <= steps + 1 + 2


async def test_one_that_waits_can_be_cancelled_at_once(start_engine: StartEngine) -> None:
    async with start_engine(running=1) as (engine, faults):
        long, waiting = engine.submit(prompt(), ENDLESS), engine.submit(prompt(), ENDLESS)
        await until(lambda: engine.load().running == 1)
        faults.open.clear()
        waiting.cancel()
        waiting.cancel()
        assert [event.reason for event in await events_of(waiting)] == [Reason.CANCELLED]
        assert engine.load().waiting == 0
        long.cancel()


async def test_cancelling_an_ended_answer_does_nothing(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        answer = engine.submit(prompt(), Sampling(2, ignore_eos=True))
        await events_of(answer)
        answer.cancel()
        assert len(await events_of(engine.submit(prompt(), Sampling(2, ignore_eos=True)))) == 2 + 1


async def test_a_full_queue_refuses_and_says_when_to_come_back(start_engine: StartEngine) -> None:
    async with start_engine(running=1, waiting=1) as (engine, faults):
        faults.open.clear()
        held = [engine.submit(prompt(), ENDLESS) for _ in range(2)]
        with pytest.raises(ExhaustedError) as caught:
            engine.submit(prompt(), ENDLESS)
        assert caught.value.retry_after > 0
        faults.open.set()
        for generation in held:
            generation.cancel()
            await events_of(generation)
        assert len(await events_of(engine.submit(prompt(), Sampling(1)))) == 1 + 1


@surviving
async def test_one_querys_failure_is_its_own(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        neighbour = engine.submit(prompt(), Sampling(30, ignore_eos=True))
        broken = engine.submit(prompt(value=MARK), ENDLESS)
        with pytest.raises(EngineError, match="failed on this query"):
            await events_of(broken)
        assert len(await events_of(neighbour)) == 30 + 1
        await until(lambda: engine.health().ok)
        assert engine.load().running == 0


@surviving
async def test_health_is_a_step_that_succeeded(start_engine: StartEngine) -> None:
    async with start_engine(probe_seconds=0.01) as (engine, faults):
        assert engine.health().ok
        faults.dead = True
        await until(lambda: not engine.health().ok)
        assert "failed" in engine.health().detail
        faults.dead = False
        await until(lambda: engine.health().ok)


async def test_a_step_that_hangs_is_not_healthy(start_engine: StartEngine) -> None:
    async with start_engine(stall_seconds=0.2, probe_seconds=0.001) as (engine, faults):
        faults.open.clear()
        await until(lambda: not engine.health().ok)
        assert "ago" in engine.health().detail
        faults.open.set()
        await until(lambda: engine.health().ok)


async def test_a_model_that_can_not_step_does_not_start(tiny_model: Path) -> None:
    faults = Faults(AutoModelForCausalLM.from_pretrained(tiny_model))
    faults.dead = True
    engine = TransformersEngine(faults.model, EngineConfig())
    with pytest.raises(EngineError, match="warm-up"):
        await engine.start()
    await engine.stop()
    assert not engine.health().ok


async def test_stopping_ends_every_answer(start_engine: StartEngine) -> None:
    async with start_engine(running=1) as (engine, _):
        running, waiting = engine.submit(prompt(), ENDLESS), engine.submit(prompt(), ENDLESS)
        events = aiter(running)
        await anext(events)
        await engine.stop()
        for rest in (events, waiting):
            with pytest.raises(UnavailableError):
                await events_of(rest)
        with pytest.raises(UnavailableError):
            engine.submit(prompt(), ENDLESS)
        assert not engine.health().ok


async def test_an_ended_answer_leaves_nothing_behind(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        embeddings = prompt()
        held = weakref.ref(embeddings)
        answer = engine.submit(embeddings, Sampling(3, ignore_eos=True))
        del embeddings
        await events_of(answer)
        gc.collect()
        assert held() is None


LONG = [[5] * 200, [6] * 200]


async def test_every_token_of_every_candidate_is_scored(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        scored = await engine.score(prompt(), [[5], [6, 7], [5, 5, 5]]).result()
        assert [len(values) for values in scored.logprobs] == [1, 2, 3]
        assert all(value < 0 for values in scored.logprobs for value in values)
        assert scored.logprobs[0][0] == scored.logprobs[2][0]
        assert min(scored.queue_seconds, scored.prefill_seconds, scored.score_seconds) > 0
        assert engine.load().running == 0


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "candidates"),
        ([[5], []], "candidates[1].token_ids"),
        ([[259]], "candidates[0].token_ids"),
        ([[5], [6, -1]], "candidates[1].token_ids"),
        ([[5] * 509], "candidates[0].token_ids"),
    ],
    ids=["none", "empty", "unknown id", "negative id", "beyond the context"],
)
async def test_candidates_that_the_model_can_not_take_are_refused(
    start_engine: StartEngine, bad: list[list[int]], field: str
) -> None:
    async with start_engine() as (engine, _):
        with pytest.raises(InvalidValue) as caught:
            engine.score(prompt(), bad)
        assert caught.value.field == field
        with pytest.raises(InvalidValue, match="prompt is"):
            engine.score(torch.full((4, 31), 0.1), [[5]])
        assert len((await engine.score(prompt(), [[5] * 508]).result()).logprobs[0]) == 508


async def test_scoring_stands_in_the_same_queue(start_engine: StartEngine) -> None:
    async with start_engine(running=1, waiting=1) as (engine, faults):
        faults.open.clear()
        answer, scoring = engine.submit(prompt(), Sampling(2, ignore_eos=True)), engine.score(prompt(), [[5]])
        with pytest.raises(ExhaustedError):
            engine.score(prompt(), [[5]])
        faults.open.set()
        assert len(await events_of(answer)) == 2 + 1
        assert len((await scoring.result()).logprobs) == 1


@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancelled_scoring_frees_its_place_and_its_reader(start_engine: StartEngine, waits: bool) -> None:
    async with start_engine(running=1) as (engine, faults):
        held = engine.submit(prompt(), ENDLESS) if waits else None
        await until(lambda: engine.load().running == int(waits))
        faults.open.clear()
        scoring = engine.score(prompt(), LONG)
        reader = asyncio.ensure_future(scoring.result())
        await until(lambda: engine.load().running == 1)
        scoring.cancel()
        if held:
            held.cancel()
        faults.open.set()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: engine.load().running + engine.load().waiting == 0)
        assert engine.health().ok


@surviving
async def test_a_scoring_that_fails_is_alone_in_it(start_engine: StartEngine) -> None:
    async with start_engine() as (engine, _):
        neighbour = engine.score(prompt(), LONG)
        with pytest.raises(EngineError, match="failed on this query"):
            await engine.score(prompt(value=MARK), [[5]]).result()
        assert len((await neighbour.result()).logprobs) == 2
        await until(lambda: engine.health().ok)


async def test_stopping_ends_every_scoring(start_engine: StartEngine) -> None:
    async with start_engine(running=1) as (engine, faults):
        faults.open.clear()
        scorings = [engine.score(prompt(), [[5]]) for _ in range(2)]
        stopped = asyncio.ensure_future(engine.stop())
        await asyncio.sleep(0)
        faults.open.set()
        await stopped
        outcomes = await asyncio.gather(*(scoring.result() for scoring in scorings), return_exceptions=True)
        assert isinstance(outcomes[1], UnavailableError)
        with pytest.raises(UnavailableError):
            engine.score(prompt(), [[5]])
