"""Servers in processes of their own, found by the address in their ready line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that is ready: its address, HOST:PORT, and its process."""

    address: str
    pid: int

    def resident_bytes(self) -> int:
        """Memory that it holds now."""
        return resident_bytes(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time of its process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@contextmanager
def started(module: str, *arguments: str, within: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """`python -m module arguments`, until the context is left; within: what comes before the command."""
    command = [*within, sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"ready on (\S+)", line)
            if not found:
                raise SystemExit(f"{module} did not start: {line}")
            yield ServerProcess(found[1], process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def running_server(*options: str) -> Iterator[ServerProcess]:
    """`del-server serve` with these options beside its defaults, on a free port."""
    with started("del_server.cli", "serve", "--port", "0", *options) as server:
        yield server
