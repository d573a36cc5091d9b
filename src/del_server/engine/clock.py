"""Clock: how long a prompt waited, and how long it took to enter."""

from __future__ import annotations

import time


class Clock:
    """Of one prompt, from its making on. Each moment counts once."""

    def __init__(self) -> None:
        self._queued_at = time.perf_counter()
        self._admitted_at: float | None = None
        self._prefilled_at: float | None = None

    def admit(self) -> None:
        """The prompt has a slot."""
        self._admitted_at = self._admitted_at or time.perf_counter()

    def prefill(self) -> None:
        """The prompt is in."""
        self._prefilled_at = self._prefilled_at or time.perf_counter()

    @property
    def admitted(self) -> bool:
        """Whether the prompt has had a slot."""
        return self._admitted_at is not None

    @property
    def queue_seconds(self) -> float:
        """From its making to its slot, or until now."""
        return (self._admitted_at or time.perf_counter()) - self._queued_at

    @property
    def prefill_seconds(self) -> float:
        """From the slot until the prompt was in, or until now."""
        if self._admitted_at is None:
            return 0.0
        return (self._prefilled_at or time.perf_counter()) - self._admitted_at

    @property
    def decode_seconds(self) -> float:
        """From then until now."""
        return time.perf_counter() - (self._prefilled_at or self._queued_at)
