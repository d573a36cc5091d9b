"""Metering: what each caller takes, against its quota, in memory that does not grow with the number of callers.

Knows nothing of gRPC, queries or prompts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from del_codec.errors import ExhaustedError
from del_server.access.quotas import Quota
from del_server.status import QuotaExceeded

MOST_CALLERS = 10_000
_MINUTE = 60.0
_SOON = 1.0

Clock = Callable[[], float]


class Bucket:
    """An amount that fills up by so much a minute, to one minute's worth; it may be overdrawn. 0 a minute: no bound."""

    def __init__(self, a_minute: int, clock: Clock) -> None:
        self._most, self._clock = float(a_minute), clock
        self._level, self._at = self._most, clock()

    def wait(self, amount: float) -> float:
        """Seconds until so much is there: 0 for now."""
        if not self._most:
            return 0.0
        return max(0.0, amount - self._filled()) * _MINUTE / self._most

    def take(self, amount: float) -> None:
        """Take it, or give back what is negative."""
        if self._most:
            self._level = min(self._filled() - amount, self._most)

    @property
    def full(self) -> bool:
        """Whether it is as if nothing had ever been taken."""
        return not self._most or self._filled() >= self._most

    def _filled(self) -> float:
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._most / _MINUTE)
        self._at = now
        return self._level


class Room:
    """Memory for prompts that are not answered yet; one caller may have half of it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0


class Meter:
    """What one caller takes."""

    def __init__(self, quota: Quota, room: Room, clock: Clock = time.monotonic) -> None:
        self.quota = quota
        self.streams = self._held = 0
        self._room = room
        self._queries = Bucket(quota.queries_a_minute, clock)
        self._tokens = Bucket(quota.tokens_a_minute, clock)
        self._bytes = Bucket(quota.bytes_a_minute, clock)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Be one of the caller's calls. Raises QuotaExceeded if there are as many as it may have."""
        if self.streams >= self.quota.streams:
            raise QuotaExceeded(f"you have {self.streams} calls open, as many as you may: end one first", _SOON)
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def query(self, tokens: int) -> Charge:
        """Charge a query with all tokens that it may come to. Raises QuotaExceeded, and then charges nothing."""
        for bucket, amount, what, most in (
            (self._queries, 1, "queries", self.quota.queries_a_minute),
            (self._tokens, tokens, "tokens", self.quota.tokens_a_minute),
        ):
            _check(bucket.wait(amount), what, most)
        self.check_bytes()
        self._queries.take(1)
        self._tokens.take(tokens)
        return Charge(self, tokens)

    def give_back(self, tokens: int) -> None:
        """Tokens that were charged and not used."""
        self._tokens.take(-tokens)

    def hold(self, size: int) -> None:
        """Hold so much more of a prompt; negative: less. Raises ExhaustedError where there is no room for it."""
        if size > 0 and (self._room.held + size > self._room.most or self._held + size > self._room.most // 2):
            raise ExhaustedError("the server holds all of the unanswered prompts that it can; send yours again later")
        self._room.held += size
        self._held += size

    def check_bytes(self) -> None:
        """Raise QuotaExceeded if more bytes went over the wire than may."""
        _check(self._bytes.wait(0), "bytes", self.quota.bytes_a_minute)

    def count(self, size: int) -> None:
        """Count bytes that went over the wire, either way."""
        self._bytes.take(size)

    def far_over(self) -> float:
        """Seconds until bytes are overdrawn by less than a minute's worth."""
        return self._bytes.wait(-self.quota.bytes_a_minute)

    @property
    def fresh(self) -> bool:
        """Whether it is as one that was just made."""
        return not (self.streams or self._held) and self._queries.full and self._tokens.full and self._bytes.full


class Charge:
    """Tokens that were charged for one query, and the memory that its prompt has."""

    def __init__(self, meter: Meter, tokens: int) -> None:
        self._meter, self._tokens, self._held = meter, tokens, 0

    def hold(self, size: int) -> None:
        """Hold so much more of the prompt. Raises ExhaustedError."""
        self._meter.hold(size)
        self._held += size

    def settle(self, used: int) -> None:
        """Give back what was not used, and all memory."""
        self._meter.hold(-self._held)
        self._held = 0
        if used < self._tokens:
            self._meter.give_back(self._tokens - used)
            self._tokens = used


class Meters:
    """The meters of all callers who took something lately."""

    def __init__(self, room: Room, most: int = MOST_CALLERS, clock: Clock = time.monotonic) -> None:
        self._room, self._most, self._clock = room, most, clock
        self._meters: OrderedDict[str, Meter] = OrderedDict()

    def of(self, name: str, quota: Quota) -> Meter:
        """A caller's meter; a changed quota begins anew. Raises QuotaExceeded where there is no room for another."""
        meter = self._meters.get(name)
        if meter is not None and meter.quota == quota:
            self._meters.move_to_end(name)
            return meter
        if meter is None and len(self._meters) >= self._most:
            self._make_room()
        self._meters[name] = Meter(quota, self._room, self._clock)
        return self._meters[name]

    def _make_room(self) -> None:
        """Forget meters that a new one would stand for as well. Looks at a few of the longest unused."""
        for name in list(self._meters)[:16]:
            if self._meters[name].fresh:
                del self._meters[name]
        if len(self._meters) >= self._most:
            raise QuotaExceeded(f"the server meters {self._most} callers at once: try again later", _MINUTE)


def _check(wait: float, what: str, most: int) -> None:
    if wait:
        raise QuotaExceeded(f"you may take {most} {what} a minute: try again in {wait:.1f} s", wait)
