"""A server process for tests: started, ready, and told to leave in the end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SERVE = [sys.executable, "-m", "del_server.cli", "serve", "--port", "0"]


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """The address that the server listens on. It must leave cleanly."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = re.search(r"ready on (\S+:\d+)", process.stdout.readline())
        assert ready
        yield ready[1]
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
