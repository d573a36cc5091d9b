"""An answer's way out: which tokens share a message."""

from __future__ import annotations

import pytest

from del_codec.v1 import inference_pb2 as pb
from del_server.query import Delta
from del_server.service.shaping import MOST_TOGETHER, Outlet, Shaping


async def messages(shaping: Shaping, more: list[bool]) -> list[list[int]]:
    """The ids of each message of an answer whose tokens are 0, 1, ...; more: whether the next was there already."""
    sent: list[list[int]] = []

    async def send(response: pb.GenerateResponse) -> None:
        sent.append(list(response.delta.token_ids))

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


async def test_a_message_is_bounded() -> None:
    sent = await messages(Shaping(), [True] * (MOST_TOGETHER + 1))
    assert [len(ids) for ids in sent] == [MOST_TOGETHER, 1]
