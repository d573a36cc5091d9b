"""One prompt in the vLLM engine: it waits for a slot, then a task of its own talks to vLLM. All in one event loop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from del_server.engine.base import Reason
from del_server.engine.clock import Clock


class Job(ABC):
    """tokens: most positions of keys and values that it may come to take. `on_cancel` hears of its cancellation."""

    def __init__(self, tokens: int, on_cancel: Callable[[Job], None]) -> None:
        self.tokens = tokens
        self.cancelled = False
        self._on_cancel = on_cancel
        self._task: asyncio.Task[Reason] | None = None
        self.clock = Clock()

    @abstractmethod
    async def work(self, llm: Any) -> Reason:
        """Have vLLM do it; why it ended."""

    @abstractmethod
    def end(self, reason: Reason) -> None:
        """Hand the outcome to the reader."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Make the reader raise `error`."""

    def start(self, llm: Any, ended: Callable[[Job, asyncio.Task[Reason]], None]) -> None:
        """Take a slot; `ended` is called once with the task."""
        self.clock.admit()
        self._task = asyncio.create_task(self.work(llm))
        self._task.add_done_callback(lambda task: ended(self, task))

    def cancel(self) -> None:
        """Leave the queue now, or have vLLM abort it before its next step."""
        if not self.cancelled:
            self.cancelled = True
            self._on_cancel(self)

    def abort(self) -> None:
        """End the task, if there is one."""
        if self._task is not None:
            self._task.cancel()
