"""Starting a worker: a new interpreter, never a fork of this one, that holds the other end of a socket pair."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

PROGRAM = ("-m", "del_server.engine.process")


class Launched(Protocol):
    """A worker under way. end: this side's end of the pair; pid: for logs."""

    end: socket.socket
    pid: int

    def kill(self) -> None:
        """End it now, whatever it does."""

    async def ended(self) -> None:
        """Wait until it is gone."""


Launch = Callable[[], Awaitable[Launched]]


class WorkerProcess:
    """See Launched."""

    def __init__(self, end: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.end, self.pid, self._process = end, process.pid, process

    def kill(self) -> None:
        """See Launched."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> None:
        """See Launched."""
        await self._process.wait()


def launcher(environment: Mapping[str, str], program: tuple[str, ...] = PROGRAM) -> Launch:
    """Starts `python PROGRAM FD` with this process's environment and these variables over it."""

    async def launch() -> Launched:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *program,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return WorkerProcess(ours, process)

    return launch


def gpu_environment(index: int) -> dict[str, str]:
    """Has a worker see one GPU alone, the one that PyTorch here counts as `index`."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {"CUDA_VISIBLE_DEVICES": seen.split(",")[index].strip() if seen else str(index)}
