"""Who is answered next: bounded, and shared fairly among callers.

Callers are names; what a caller is, or what a query is, is not known here. All calls belong to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from types import TracebackType

from del_codec.errors import ExhaustedError


class Admission:
    """Slots for queries whose prompt is complete, and places to wait for them.

    Slots go to callers in turn, so that one who asks for much waits for itself alone. When all places are taken, who
    waits with clearly fewer queries than another takes that one's latest place.
    """

    def __init__(self, slots: int, waiting: int = 0) -> None:
        self.slots, self.waiting = slots, waiting
        self._granted = 0
        self._queues: OrderedDict[str, deque[Place]] = OrderedDict()

    @property
    def places(self) -> int:
        """The most queries that have a slot or wait for one."""
        return self.slots + self.waiting

    @property
    def taken(self) -> int:
        """How many do now."""
        return self._granted + self._queued

    def ask(self, caller: str) -> Place:
        """A place for a query of that caller. Raises ExhaustedError if there is none."""
        if self._granted < self.slots and not self._queues:
            self._granted += 1
            return Place(self, caller, granted=True)
        if self._queued >= self.waiting:
            self._drop_for(caller)
        place = Place(self, caller, granted=False)
        self._queues.setdefault(caller, deque()).append(place)
        return place

    def leave(self, place: Place) -> None:
        """Free a place; its slot, if it has one, goes to whose turn it is."""
        if place.granted:
            self._granted -= 1
            self._grant()
        elif place in self._queues.get(place.caller, ()):
            self._take(place.caller, place)

    @property
    def _queued(self) -> int:
        return sum(map(len, self._queues.values()))

    def _grant(self) -> None:
        while self._queues and self._granted < self.slots:
            caller, queue = next(iter(self._queues.items()))
            place = self._take(caller, queue[0])
            if caller in self._queues:
                self._queues.move_to_end(caller)
            self._granted += 1
            place.grant()

    def _drop_for(self, caller: str) -> None:
        full = ExhaustedError(f"the server answers {self.places} queries at once; send the same bytes again later")
        own = len(self._queues.get(caller, ()))
        most = max(self._queues, key=lambda name: len(self._queues[name]), default=caller)
        if len(self._queues.get(most, ())) <= own + 1:
            raise full
        self._take(most, self._queues[most][-1]).refuse(full)

    def _take(self, caller: str, place: Place) -> Place:
        queue = self._queues[caller]
        queue.remove(place)
        if not queue:
            del self._queues[caller]
        return place


class Place:
    """A query's, as a context: leaving it frees it."""

    def __init__(self, admission: Admission, caller: str, granted: bool) -> None:
        self.caller, self.granted = caller, granted
        self._admission = admission
        self._cancelled = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if granted:
            self._over.set_result(None)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over.done() and not self._over.cancelled():
            self._over.exception()  # seen, whether or not anybody waited for it
        self._admission.leave(self)

    async def slot(self) -> bool:
        """Wait for a slot; False if the place was cancelled first. Raises ExhaustedError if another caller took it."""
        await asyncio.shield(self._over)
        return not self._cancelled

    def cancel(self) -> None:
        """Wait no longer. No effect on a place that has a slot."""
        if not self._over.done():
            self._cancelled = True
            self._over.set_result(None)

    def grant(self) -> None:
        """It has a slot."""
        self.granted = True
        if not self._over.done():
            self._over.set_result(None)

    def refuse(self, error: ExhaustedError) -> None:
        """It was taken away."""
        if not self._over.done():
            self._over.set_exception(error)
