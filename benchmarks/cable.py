"""Two network namespaces with a cable between them: `with Cable() as cable`. Needs root and iproute2."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess

NARROW = "64kbit"
BURST, LATENCY = {NARROW: "2kb"}, "4s"
SERVER, DEVICE = "10.203.7.1", "10.203.7.2"


def refused() -> str:
    """Why namespaces can't be had here; empty where they can."""
    if not shutil.which("ip") or not shutil.which("tc"):
        return "iproute2 is not installed"
    name = f"del-probe-{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not permitted here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Cable:
    """The server's end at SERVER, the device's at DEVICE, so many bits a second each way ("" for no bound)."""

    def __init__(self, rate: str = NARROW) -> None:
        self._rate = rate

    def __enter__(self) -> Cable:
        tag = secrets.token_hex(3)
        self.server, self.device = f"del-s-{tag}", f"del-d-{tag}"
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        for name in (self.server, self.device):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "cable", "netns", self.server, "type", "veth", "peer", "name", "cable", "netns", self.device)
        for name, address in ((self.server, SERVER), (self.device, DEVICE)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        self.shape(self._rate)

    def __exit__(self, *exception: object) -> None:
        for name in (self.server, self.device):
            subprocess.run(["ip", "netns", "del", name], check=False)

    def within(self, name: str, *command: str) -> list[str]:
        """The command that runs another one in a namespace."""
        return ["ip", "netns", "exec", name, *command]

    def shape(self, rate: str) -> None:
        """Let no more than so many bits a second pass from now on; "" for no bound."""
        kind = ["tbf", "rate", rate, "burst", BURST.get(rate, "16kb"), "latency", LATENCY] if rate else ["noqueue"]
        for name in (self.server, self.device):
            subprocess.run(["tc", "-n", name, "qdisc", "replace", "dev", "cable", "root", *kind], check=True)

    def carried(self) -> tuple[int, int]:
        """Bytes of frames so far, from the device and to it, by the kernel's counters of the device's end."""
        command = ["ip", "-n", self.device, "-s", "-j", "link", "show", "cable"]
        shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        counters = shown[0]["stats64"]
        return counters["tx"]["bytes"], counters["rx"]["bytes"]

    def cut(self) -> None:
        """Take the link down."""
        _ip("-n", self.server, "link", "set", "cable", "down")

    def mend(self) -> None:
        """And up again."""
        _ip("-n", self.server, "link", "set", "cable", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
