"""Coroutines run for threads that have no event loop: results, errors, interruptions."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from del_client.loop_thread import LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


def test_results_and_errors(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("a")

    assert loop.run(asyncio.sleep, 0, "done") == "done"
    with pytest.raises(KeyError):
        loop.run(fail)


def test_an_interruption_cancels_what_is_waited_for_and_nothing_else(loop: LoopThread) -> None:
    running, ended = threading.Event(), []

    async def wait(name: str) -> str:
        try:
            running.set()
            await asyncio.sleep(0.5 if name == "other" else 60)
        finally:
            ended.append(name)
        return name

    others: list[str] = []
    other = threading.Thread(target=lambda: others.append(loop.run(wait, "other")))
    other.start()
    running.wait()
    running.clear()
    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Thread(target=lambda: (running.wait(), signal.pthread_kill(main, signal.SIGINT)))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(wait, "this")
    assert ended == ["this"]
    interrupt.join()
    other.join()
    assert others == ["other"]


def test_closing_cancels_and_refuses_what_comes_later(loop: LoopThread) -> None:
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def start() -> asyncio.Task[None]:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task

    loop.run(start)
    loop.close()
    loop.close()
    assert cancelled.is_set()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run(asyncio.sleep, 0)
