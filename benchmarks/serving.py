"""Targets of the server: how soon it is ready when its weights were converted before."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from benchmarks.target import Target


def ready_seconds() -> float:
    """From the start of `del-server serve` to its ready line, the second time."""
    _start()
    return _start()


def _start() -> float:
    start = time.monotonic()
    command = [sys.executable, "-m", "del_server.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.monotonic() - start
        process.send_signal(signal.SIGTERM)
    if "ready" not in line:
        raise SystemExit(f"the server did not start: {line}")
    return seconds


TARGETS = [Target("serving.ready_second_start_s", 10, "at most", ready_seconds)]
