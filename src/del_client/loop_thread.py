"""LoopThread: an event loop on a thread of its own, for callers that have none. Knows nothing of clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class LoopThread:
    """Runs coroutines for threads that wait for them; several threads may use one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="del-client", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether nothing can be run any more."""
        return self._loop.is_closed()

    def run(self, work: Callable[P, Coroutine[Any, Any, T]], *arguments: P.args, **named: P.kwargs) -> T:
        """What `work` returns or raises. Interrupted, as by Ctrl-C, it cancels `work` and waits for it to end.

        The coroutine is made on the loop's thread: none is left over where an interruption comes first. Raises
        RuntimeError once closed.
        """
        if self.closed:
            raise RuntimeError("the client is closed")
        tasks: list[asyncio.Task[T]] = []
        done = threading.Event()

        def start() -> None:
            if not done.is_set():
                tasks.append(self._loop.create_task(work(*arguments, **named)))
                tasks[0].add_done_callback(lambda _: done.set())

        def stop() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before it was handed over
                done.set()

        try:
            self._loop.call_soon_threadsafe(start)
            done.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(stop)
            done.wait()
            if tasks and not tasks[0].cancelled():
                tasks[0].exception()  # looked at, or asyncio complains that nobody did
            raise
        return tasks[0].result()

    def close(self) -> None:
        """Cancel what still runs and end the thread. Closing twice is fine."""
        if self.closed:
            return
        self.run(_cancel_others)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
