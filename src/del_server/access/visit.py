"""Visits: one call each, by a caller who was let in, with what it may take. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from del_codec.errors import AccessDenied
from del_server.access.caller import Caller, Door, Shown
from del_server.access.metering import Charge, Meter, Meters, Room
from del_server.access.quotas import Quotas


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
