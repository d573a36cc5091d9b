"""Events on their way from the engine's thread to the event loops of those who wait: one hand-over for many.

Waking a loop costs more than what it is woken for, so what a step has to tell goes together. Knows nothing of events.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., object], tuple[Any, ...]]


class Outbox:
    """Calls to make in a loop of each one's own; `flush` hands over all that were posted, in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posted: dict[asyncio.AbstractEventLoop, list[Call]] = {}

    def post(self, loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` in `loop` at the next flush."""
        with self._lock:
            self._posted.setdefault(loop, []).append((function, arguments))

    def flush(self) -> None:
        """Wake each loop that there is something for, once."""
        with self._lock:
            posted, self._posted = self._posted, {}
        for loop, calls in posted.items():
            try:
                loop.call_soon_threadsafe(_make, calls)
            except RuntimeError:  # the loop has closed: nobody is left to hear of it
                continue


def _make(calls: list[Call]) -> None:
    for function, arguments in calls:
        function(*arguments)
