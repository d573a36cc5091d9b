"""An answer's way out: which tokens share a message."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from del_codec.errors import EngineError
from del_codec.v1 import inference_pb2 as pb
from del_server.engine.base import Finish, Reason, Token
from del_server.engine.events import Events
from del_server.query import Delta
from del_server.service.shaping import MOST_TOGETHER, Outlet, Shaping


async def messages(shaping: Shaping, more: list[bool]) -> list[list[int]]:
    """The ids of each message of an answer whose tokens are 0, 1, ...; more: whether the next was there already."""
    sent: list[list[int]] = []

    async def send(responses: Sequence[pb.GenerateResponse]) -> None:
        sent.extend(list(response.delta.token_ids) for response in responses)

    async with Outlet(1, shaping, send) as outlet:
        for token, ahead in enumerate(more):
            await outlet.put(Delta((token,), "", more=ahead))
        await outlet.end()
    return sent


@pytest.mark.parametrize(
    ("shaping", "more", "expected"),
    [
        (Shaping(), [False, False], [[0], [1]]),
        (Shaping(), [True, True, False, False], [[0, 1, 2], [3]]),
        (Shaping(), [True, True], [[0, 1]]),
        (Shaping(tokens=1), [True, True, False], [[0], [1], [2]]),
        (Shaping(tokens=2), [True, True, True, False, False], [[0, 1], [2, 3], [4]]),
    ],
    ids=["as they come", "those that are there", "the answer's end", "one each", "two each"],
)
async def test_tokens_that_are_there_share_a_message(
    shaping: Shaping, more: list[bool], expected: list[list[int]]
) -> None:
    assert await messages(shaping, more) == expected


async def test_messages_of_tokens_that_are_there_leave_in_a_row_and_none_is_kept_for_those_to_come() -> None:
    rows: list[list[list[int]]] = []

    async def send(responses: Sequence[pb.GenerateResponse]) -> None:
        rows.append([list(response.delta.token_ids) for response in responses])

    ahead = [True, True, False, False, *[True] * MOST_TOGETHER]
    async with Outlet(1, Shaping(tokens=1), send) as outlet:
        for token, more in enumerate(ahead):
            await outlet.put(Delta((token,), "", more=more))
    assert rows == [[[0], [1], [2]], [[3]], [[token] for token in range(4, len(ahead))]]


async def test_a_message_is_bounded() -> None:
    sent = await messages(Shaping(), [True] * (MOST_TOGETHER + 1))
    assert [len(ids) for ids in sent] == [MOST_TOGETHER, 1]


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_an_answer_ends_with_what_came_before_it_is_sent(seed: int) -> None:
    """Tokens come in bursts, messages leave slowly, and the answer ends or fails at any time."""
    draw, events, sent = random.Random(seed), Events(), list[list[int]]()
    tokens, fails = draw.randrange(60), draw.random() < 0.5

    async def generate() -> None:
        for token in range(tokens):
            events.put(Token(token))
            for _ in range(draw.choice([0, 0, 0, 3, 9])):
                await asyncio.sleep(0)
        events.put(EngineError("no more") if fails else Finish(Reason.STOP, 0, 0))

    async def send(responses: Sequence[pb.GenerateResponse]) -> None:
        for response in responses:
            for _ in range(draw.choice([0, 1, 20])):
                await asyncio.sleep(0)
            sent.append(list(response.delta.token_ids))

    generating = asyncio.create_task(generate())
    try:
        async with Outlet(1, Shaping(), send) as outlet:
            async for event in events:
                if isinstance(event, Token):
                    await outlet.put(Delta((event.token_id,), "", more=events.ready))
            await outlet.end()
    except EngineError:
        assert fails
    await generating
    assert [token for ids in sent for token in ids] == list(range(tokens))
    assert all(1 <= len(ids) <= MOST_TOGETHER for ids in sent)
