"""Targets of the server: how soon it is ready when its weights were converted before."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


TARGETS = [Target("serving.ready_second_start_s", 10, "at most", ready_seconds)]
