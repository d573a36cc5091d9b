"""Answers over a bad network: a query that broke off is sent again, byte for byte, and its answer gone on with.

A server keeps nothing of a query, so what goes on is the query with the tokens that came: greedy, or with the same
seed, it has the tokens that an undisturbed answer has had. Knows nothing of gRPC: it is handed what sends a query once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from del_client.query import Event, Finish, Query, TokenDelta
from del_codec.errors import InvalidValue, MismatchError, UnavailableError

MAX_TOKENS = 1 << 20

T = TypeVar("T")
SendOnce = Callable[[Query], AsyncGenerator[Event]]
Interrupted = Callable[[UnavailableError, float], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a lost connection is put up with.

    seconds: without a new token, after which the error is the caller's; 0: the first is. first_wait, longest_wait:
    bounds of the waits between attempts, which double and are drawn from the upper half of their range, so that a
    server that comes back isn't met by all of its devices at once.
    """

    seconds: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf"):
            raise InvalidValue("patience", self.seconds, "use a number of seconds, 0 for no second attempt")
        if not 0 < self.first_wait <= self.longest_wait:
            raise InvalidValue("first_wait", self.first_wait, f"use more than 0, up to {self.longest_wait}")

    def wait(self, failures: int) -> float:
        """Seconds before the next attempt, after so many failures in a row."""
        longest = min(self.first_wait * 2.0 ** min(failures - 1, 30), self.longest_wait)
        return random.uniform(longest / 2, longest)


class Attempts:
    """The attempts at one thing: how often it failed since it last got on, and whether there is another."""

    def __init__(self, patience: Patience, interrupted: Interrupted) -> None:
        self._patience = patience
        self._interrupted = interrupted
        self.got_on()

    def got_on(self) -> None:
        """Something came: the patience is whole again."""
        self.failures, self._since = 0, time.monotonic()

    async def another(self, error: UnavailableError) -> None:
        """Wait until the next attempt. Raises the error if it allows none, or the patience doesn't."""
        if error.retry_after is None:
            raise error
        self.failures += 1
        wait = max(self._patience.wait(self.failures), error.retry_after)
        if time.monotonic() + wait - self._since > self._patience.seconds:
            raise error
        self._interrupted(error, wait)
        await asyncio.sleep(wait)


async def answer(
    send_once: SendOnce, query: Query, patience: Patience, interrupted: Interrupted
) -> AsyncGenerator[Event]:
    """The events of one answer, every token once, whatever happens to the connection.

    Only an UnavailableError that allows it is answered by another attempt; a server's hint of when is kept to.
    `interrupted` is told of each: the error and the seconds until the next attempt. Raises the last error once
    `patience` has run out, and every other at once.
    """
    came = list(query.resume)
    # A text without a token is the end of an answer that ends inside a character: another attempt would give it again.
    held: list[TokenDelta] = []
    attempts, interruptions = Attempts(patience, interrupted), 0
    while True:
        try:
            async with aclosing(send_once(replace(query, resume=tuple(came)))) as events:
                async for event in events:
                    attempts.got_on()
                    while held:
                        yield held.pop()
                    if isinstance(event, Finish):
                        yield _whole(event, len(came) - len(query.resume), interruptions)
                        return
                    came += event.token_ids
                    if len(came) > (query.options.max_new_tokens or MAX_TOKENS):
                        raise MismatchError(f"the server sent {len(came)} tokens, more than were asked for")
                    if event.token_ids:
                        yield event
                    else:
                        held.append(event)
        except UnavailableError as error:
            held.clear()
            interruptions += attempts.failures == 0
            await attempts.another(error)


async def result(send_once: Callable[[], Awaitable[T]], patience: Patience, interrupted: Interrupted) -> T:
    """What a call that gives one thing gives, called again where the connection was lost; as `answer` does."""
    attempts = Attempts(patience, interrupted)
    while True:
        try:
            return await send_once()
        except UnavailableError as error:
            await attempts.another(error)


def _whole(last: Finish, new_tokens: int, interruptions: int) -> Finish:
    """The finish of all attempts together."""
    return replace(last, usage=replace(last.usage, new_tokens=new_tokens), interruptions=interruptions)
