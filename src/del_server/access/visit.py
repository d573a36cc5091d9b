"""Visits: one call each, by a caller who was let in, with what it may take. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from del_codec.errors import AccessDenied
from del_server.access.caller import Caller, Door, Shown, household
from del_server.access.metering import Charge, Meter, Meters, Room
from del_server.access.quotas import Quotas
from del_server.config import STREAMS
from del_server.status import QuotaExceeded

# Calls at once that anyone may make, of one host and of all: they must not take the places of those who show a token.
PASSING_OF_ONE, PASSING_OF_ALL = 32, STREAMS // 4
_SOON = 1.0


@dataclass(frozen=True, slots=True)
class Visit:
    """A call's caller and its meter."""

    caller: Caller
    meter: Meter
    door: Door

    def query(self, tokens: int) -> Charge:
        """Charge a query of so many tokens at most. Raises AccessDenied if the caller's token holds no longer,
        QuotaExceeded for what exceeds its quota."""
        self.door.check(self.caller)
        return self.meter.query(tokens)

    async def pace(self) -> None:
        """Wait while the caller is far over its bytes, so that it can't have the server read on and on."""
        await asyncio.sleep(self.meter.far_over())


class Gatehouse:
    """Lets calls in: who is it, may it, and how much."""

    def __init__(self, door: Door, quotas: Quotas, room: Room) -> None:
        self._door, self._quotas = door, quotas
        self._meters = Meters(room)
        self._passing = Counter[str]()

    @contextmanager
    def visit(self, shown: Shown) -> Iterator[Visit]:
        """A call, from its begin to its end. Raises AccessDenied or QuotaExceeded."""
        caller = self._door.admit(shown)
        quota = self._quotas.classes.get(caller.quota)
        if quota is None:
            raise AccessDenied(f"the token's quota {caller.quota!r} is not one of the server's: tell its operator")
        meter = self._meters.of(caller.name, quota)
        with meter.call():
            yield Visit(caller, meter, self._door)

    @contextmanager
    def passing(self, shown: Shown) -> Iterator[None]:
        """A call that anyone may make, from its begin to its end. Raises QuotaExceeded where there are too many."""
        host = household(shown.host)
        if self._passing[host] >= PASSING_OF_ONE or self._passing.total() >= PASSING_OF_ALL:
            raise QuotaExceeded("too many calls that need no token are open: end one first", _SOON)
        self._passing[host] += 1
        try:
            yield
        finally:
            self._passing[host] -= 1
            self._passing += Counter()  # forgets those who have none
