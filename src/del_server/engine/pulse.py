"""Pulse: whether a model answers, by its latest step. Knows nothing of models."""

from __future__ import annotations

import time

from del_server.engine.base import Health


class Pulse:
    """From its making on, as if a step had succeeded then. Any thread may ask."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._latest = time.monotonic()

    def beat(self) -> None:
        """A step succeeded."""
        self.failure = None
        self._latest = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since a step succeeded."""
        return time.monotonic() - self._latest

    def health(self, stall_seconds: float) -> Health:
        """Ok if the latest step succeeded, no longer ago than that."""
        age = self.age
        if self.failure is not None:
            return Health(False, f"the model's latest step failed ({type(self.failure).__name__})")
        if age > stall_seconds:
            return Health(False, f"the latest step succeeded {age:.0f} s ago")
        return Health(True, f"the latest step succeeded {age:.1f} s ago")
