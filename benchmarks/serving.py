"""Targets of the server: how soon it is ready when its weights were converted before, and how it does under load."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager

from benchmarks import batching
from benchmarks.target import Target


@contextmanager
def running_server() -> Iterator[str]:
    """`del-server serve` with its default model, until the context is left; the address that its ready line names."""
    command = [sys.executable, "-m", "del_server.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        try:
            found = re.search(r"ready on (\S+)", line)
            if not found:
                raise SystemExit(f"the server did not start: {line}")
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)


def ready_seconds() -> float:
    """From the start of `del-server serve` to its ready line, the second time."""
    for _ in range(2):
        start = time.monotonic()
        with running_server():
            seconds = time.monotonic() - start
    return seconds


def under_load(measure: Callable[[batching.Bench], Coroutine[None, None, float]]) -> float:
    """One of benchmarks.batching's figures, with a server of its own."""
    with running_server() as address:
        return asyncio.run(measure(batching.Bench(address)))


TARGETS = [
    Target("serving.ready_second_start_s", 10, "at most", ready_seconds),
    Target("serving.16_streams_over_generate", 0.9, "at least", lambda: under_load(batching.served_over_offline)),
    Target("serving.16_staggered_over_1", 5, "at least", lambda: under_load(batching.staggered_over_sequential)),
    Target("serving.first_token_over_engine", 1.15, "at most", lambda: under_load(batching.first_token_over_bare)),
    Target("serving.first_token_soft_prompt_share", 0.05, "at most", lambda: under_load(batching.soft_prompt_share)),
]
