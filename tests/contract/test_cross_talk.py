"""Cross-talk: canaries, prompts whose greedy answers are known, among neighbours that do all they can to spoil them.

In float32 a canary's answer is the same, byte for byte, whoever is beside it: on every engine, and through the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest
import torch
from engine_faults import ENGINES, MARK, StartEngine
from serving import Serving, StartServer, Talk, public
from test_abuse import random_request
from torch import Tensor

from del_codec.errors import EngineError, ExhaustedError, InvalidValue
from del_server.engine.base import Engine, Sampling, Token

# vLLM serves one event loop, and one of it serves all tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARIES, TOKENS, TURNS = 6, 24, 3
GREEDY = Sampling(TOKENS, ignore_eos=True)


@pytest.fixture(params=ENGINES)
def start_engine(request: pytest.FixtureRequest) -> StartEngine:
    """See test_engine.start_engine."""
    start: StartEngine = request.getfixturevalue(f"start_{request.param}")
    return start


def canary(number: int) -> Tensor:
    """Random embeddings [T, 32], T from 1 on."""
    return torch.randn(1 + 7 * number, 32, generator=torch.Generator().manual_seed(number))


async def answer_of(engine: Engine, number: int) -> list[int]:
    return [event.token_id async for event in engine.submit(canary(number), GREEDY) if isinstance(event, Token)]


class Neighbours:
    """What goes on beside the canaries, in turns, until `async with` is left. done: how often each was tried."""

    def __init__(self, engine: Engine, fatal: bool) -> None:
        """fatal: whether a failure of the model ends the engine, so that none may be brought about."""
        self._engine, self._draw = engine, random.Random(0)
        refused = [self.with_nan, self.of_a_wrong_width, self.of_a_wrong_type, self.too_long]
        self._ways = [*refused, self.huge, self.left, self.scored, *([] if fatal else [self.failing])]
        self.done = {way.__name__: 0 for way in self._ways}

    async def __aenter__(self) -> Neighbours:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(4)]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise RuntimeError("a neighbour ended otherwise than by a refusal") from outcome

    async def _go_on(self) -> None:
        for way in itertools.cycle(self._draw.sample(self._ways, len(self._ways))):
            with contextlib.suppress(ExhaustedError):
                await way()
            self.done[way.__name__] += 1
            await asyncio.sleep(0)

    def _prompt(self, tokens: int) -> Tensor:
        """Far larger than any embedding."""
        return torch.randn(tokens, 32) * 1e4

    async def _refused(self, prompt: Tensor) -> None:
        with pytest.raises(InvalidValue):
            self._engine.submit(prompt, GREEDY)

    async def with_nan(self) -> None:
        prompt = self._prompt(9)
        prompt[self._draw.randrange(9), self._draw.randrange(32)] = self._draw.choice(
            [torch.nan, torch.inf, -torch.inf]
        )
        await self._refused(prompt)

    async def of_a_wrong_width(self) -> None:
        await self._refused(torch.randn(5, self._draw.choice([1, 31, 33, 64])))

    async def of_a_wrong_type(self) -> None:
        await self._refused(torch.randn(5, 32, dtype=self._draw.choice([torch.float64, torch.bfloat16])))

    async def too_long(self) -> None:
        await self._refused(self._prompt(self._engine.capacity.context_tokens))

    async def huge(self) -> None:
        """As much as the context holds, and numbers that overflow where they can."""
        prompt = self._prompt(self._engine.capacity.context_tokens - 2) * self._draw.choice([1.0, 1e30])
        async for _ in self._engine.submit(prompt, GREEDY):
            pass

    async def left(self) -> None:
        """Cancelled at any time, before the first token too."""
        generation = self._engine.submit(self._prompt(self._draw.randrange(1, 200)), GREEDY)
        most = self._draw.randrange(6)
        if most:
            came = 0
            async for _ in generation:
                came += 1
                if came == most:
                    break
        generation.cancel()

    async def scored(self) -> None:
        await self._engine.score(self._prompt(20), [[5, 6, 7], [8]]).result()

    async def failing(self) -> None:
        """A prompt at which the model fails, after a long part of it went in."""
        prompt = torch.cat([self._prompt(self._draw.randrange(100)), torch.full((4, 32), MARK)])
        if self._draw.random() < 0.5:
            prompt = torch.full((4, 32), MARK)
        with contextlib.suppress(EngineError):
            async for _ in self._engine.submit(prompt, Sampling(2)):
                pass


async def test_canaries_of_an_engine(start_engine: StartEngine, request: pytest.FixtureRequest) -> None:
    fatal = request.node.callspec.params["start_engine"] == "vllm"
    async with start_engine(running=8, waiting=64) as (engine, _):
        alone = [await answer_of(engine, number) for number in range(CANARIES)]
        assert all(len(tokens) == TOKENS for tokens in alone)
        assert len({tuple(tokens) for tokens in alone}) > 1
        async with Neighbours(engine, fatal) as neighbours:
            for turn in range(TURNS):
                found = await asyncio.gather(*(answer_of(engine, number) for number in range(CANARIES)))
                assert found == alone, f"turn {turn}"
            while not all(neighbours.done.values()):
                assert await answer_of(engine, 1) == alone[1]
        assert await answer_of(engine, 0) == alone[0]
        while engine.load().running + engine.load().waiting:
            await asyncio.sleep(0.005)


class Canary:
    """A prompt of the service and what a stream brings for it: all its tokens and all its text."""

    def __init__(self, serving: Serving, number: int) -> None:
        ids = [random.Random(number).randrange(259) for _ in range(1 + 9 * number)]
        self._segments = [public(5, 6), serving.private(*ids)] if number % 2 else [public(*ids)]
        self._codec = serving.fingerprint if number % 2 else b""

    async def ask(self, talk: Talk, query_id: int) -> tuple[list[int], str]:
        options = {"max_new_tokens": TOKENS, "ignore_eos": True}
        await talk.ask(query_id, self._segments, codec_fingerprint=self._codec, options=options)
        reply = await talk.answer(query_id)
        assert not reply.errors
        return reply.token_ids, reply.text


@contextlib.asynccontextmanager
async def abusers(serving: Serving, count: int) -> AsyncIterator[list[int]]:
    """Streams of requests without rules, each of which breaks off; how many did."""
    broken = [0]

    async def abuse(draw: random.Random) -> None:
        while True:
            talk = serving.talk()
            for _ in range(draw.randrange(1, 40)):
                await talk.call.write(random_request(draw, serving))
            await talk.ask(77, [public(*[5] * 400)], options={"max_new_tokens": 500, "ignore_eos": True})
            await asyncio.sleep(draw.uniform(0, 0.05))
            talk.call.cancel()
            await asyncio.wait([talk._reader])
            broken[0] += 1

    tasks = [asyncio.create_task(abuse(random.Random(seed))) for seed in range(count)]
    try:
        yield broken
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


async def test_canaries_of_the_service(start_server: StartServer) -> None:
    async with start_server(max_concurrent=4, dtype="float32") as serving:
        canaries = [Canary(serving, number) for number in range(CANARIES)]
        talks, serial = [serving.talk() for _ in canaries], itertools.count(1)
        alone = [await each.ask(talks[0], next(serial)) for each in canaries]
        async with abusers(serving, 4) as broken:
            turns = 0
            while turns < TURNS or broken[0] < 8:
                asked = zip(canaries, talks, strict=True)
                found = await asyncio.gather(*(each.ask(talk, next(serial)) for each, talk in asked))
                assert found == alone
                turns += 1
        for talk in talks:
            await talk.close()
        assert serving.sample("queries_total", outcome="failed") == 0
