"""Two network namespaces with a narrow cable between them: `with Namespaces() as cable`. Needs root and iproute2."""

from __future__ import annotations

import secrets
import shutil
import subprocess

RATE, BURST, LATENCY = "64kbit", "2kb", "4s"
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


class Namespaces:
    """The server's end at SERVER, the device's at DEVICE, 64 kbit/s each way."""

    def __enter__(self) -> Namespaces:
        tag = secrets.token_hex(3)
        self.server, self.device = f"del-s-{tag}", f"del-d-{tag}"
        for name in (self.server, self.device):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "cable", "netns", self.server, "type", "veth", "peer", "name", "cable", "netns", self.device)
        for name, address in ((self.server, SERVER), (self.device, DEVICE)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            shape = ["root", "tbf", "rate", RATE, "burst", BURST, "latency", LATENCY]
            subprocess.run(["tc", "-n", name, "qdisc", "add", "dev", "cable", *shape], check=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for name in (self.server, self.device):
            _ip("netns", "del", name)

    def within(self, name: str, *command: str) -> list[str]:
        """The command that runs another one in a namespace."""
        return ["ip", "netns", "exec", name, *command]

    def cut(self) -> None:
        """Take the link down."""
        _ip("-n", self.server, "link", "set", "cable", "down")

    def mend(self) -> None:
        """And up again."""
        _ip("-n", self.server, "link", "set", "cable", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
