"""A server and a device at the ends of a cable, each in a process of its own; the kernel counts what they send."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cable import SERVER, Cable
from benchmarks.certificates import Authority
from benchmarks.server_process import started
from benchmarks.wire_server import DOORS, Door

SETTLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Passed:
    """firsts: seconds to the first token of each prompt; up, down: bytes of frames from the device and to it."""

    firsts: list[float]
    up: int
    down: int


class Line:
    """`with Line() as line`. Needs root and iproute2."""

    def __enter__(self) -> Line:
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def shape(self, rate: str) -> None:
        """Let no more than so many bits a second pass, as tc writes them; "" for no bound."""
        self._cable.shape(rate)

    def ask(self, door: Door, way: str, tokens: int, streams: int = 1, fresh: bool = False) -> Passed:
        """Send so many prompts at once in one of carried.py's ways; fresh: on a new connection, closed afterwards."""
        before = self._cable.carried()
        asked = {"door": DOORS.index(door), "way": way, "tokens": tokens, "streams": streams, "fresh": fresh}
        self._device.stdin.write(json.dumps(asked) + "\n")
        self._device.stdin.flush()
        firsts = json.loads(self._device.stdout.readline())
        time.sleep(SETTLE_SECONDS)  # what is still on its way belongs to these
        up, down = (after - was for after, was in zip(self._cable.carried(), before, strict=True))
        return Passed(firsts, up, down)

    def _open(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        certificate, key = authority.issue("server", host=SERVER)
        self._cable = cable = self._stack.enter_context(Cable(""))
        module, files = "benchmarks.wire_server", (str(certificate), str(key))
        server = self._stack.enter_context(started(module, SERVER, *files, within=cable.within(cable.server)))
        command = (sys.executable, "-m", "benchmarks.carried", str(authority.path), *self._doors(server.address))
        within = cable.within(cable.device, *command)
        pipe = subprocess.PIPE
        self._device = self._stack.enter_context(subprocess.Popen(within, stdin=pipe, stdout=pipe, text=True))
        self._stack.callback(self._device.kill)
        self._device.stdout.readline()

    @staticmethod
    def _doors(addresses: str) -> list[str]:
        """Each as the device's command line has it."""
        schemes = ("tls" if door.tls else "plain" for door in DOORS)
        return [f"{scheme}://{address}" for scheme, address in zip(schemes, addresses.split(","), strict=True)]
