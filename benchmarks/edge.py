"""Targets of the device: what its package takes on the disk, in memory and in time, measured in a fresh install of it.

The install is made once a run, by pip with the repository's constraints.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from benchmarks.canned import CannedServer
from benchmarks.target import Target
from del_codec.shipped import CHAT_TEMPLATE_FILE, DEVICE_FILE, TOKENIZER_FILE, codec_folders

ROOT = Path(__file__).parent.parent
STARTS = 7
TURNS = 5
QUESTION = b"What helps against a cold?\n"
MEGA = 10**6


@cache
def _install() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """A virtual environment with the device's package alone, and its interpreter; gone when the process ends."""
    folder = tempfile.TemporaryDirectory()
    python = Path(folder.name) / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder.name], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    constraints = ROOT / "deploy" / "constraints.txt"
    if subprocess.run([*pip, "--no-compile", "--constraint", constraints, ROOT], check=False).returncode:
        raise SystemExit("pip could not install the device's package, which needs its index")
    return folder, python


def install_megabytes() -> float:
    """Blocks on the disk of the site-packages, bytecode included."""
    folder, python = _install()
    (packages,) = Path(folder.name).glob("lib/python*/site-packages")
    subprocess.run([python, "-m", "compileall", "-q", "-j", "0", packages], check=False, stdout=subprocess.DEVNULL)
    return sum(path.lstat().st_blocks * 512 for path in packages.rglob("*")) / MEGA


def codec_megabytes() -> float:
    """The largest shipped codec's device half with its tokenizer and chat template."""
    names = (DEVICE_FILE, TOKENIZER_FILE, CHAT_TEMPLATE_FILE)
    return max(sum((folder / name).stat().st_size for name in names) for folder in codec_folders()) / MEGA


def resident_megabytes() -> float:
    """The most that a chat held in memory, after TURNS turns."""
    return asyncio.run(_resident()) / MEGA


def ready_seconds(starts: int = STARTS) -> float:
    """From the start of a process to its first query's arrival at a server.

    The quickest of so many starts: what else runs on the machine can only add to it.
    """
    return asyncio.run(_ready(starts))


async def _resident() -> int:
    async with CannedServer() as server, _chat(server) as process:
        for turn in range(TURNS):
            await _ask(process, server, turn + 1)
        status = Path(f"/proc/{process.pid}/status").read_text()
    (peak,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


async def _ready(starts: int) -> float:
    seconds = []
    async with CannedServer() as server:
        for start in range(starts):
            began = asyncio.get_running_loop().time()
            async with _chat(server) as process:
                await _ask(process, server, start + 1)
            seconds.append(server.queried[-1] - began)
    return min(seconds)


@asynccontextmanager
async def _chat(server: CannedServer) -> AsyncIterator[asyncio.subprocess.Process]:
    """`del-client chat` in the fresh install, with a ledger of its own."""
    folder, python = _install()
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "DEL_CACHE": home}
        process = await asyncio.create_subprocess_exec(
            python.with_name("del-client"), "chat", "--server", server.address, "--max-tokens", "8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder.name, env=environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            await process.wait()


async def _ask(process: asyncio.subprocess.Process, server: CannedServer, queries: int) -> None:
    """Type a question, and wait for the answer's line."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the chat has no pipes")
    process.stdin.write(QUESTION)
    await process.stdin.drain()
    while len(server.queried) < queries:
        if not await process.stdout.readline():
            raise SystemExit("the chat ended before it asked")


TARGETS = [
    Target("edge.install_MB", 190, "at most", install_megabytes),
    Target("edge.resident_MB", 150, "at most", resident_megabytes),
    Target("edge.start_to_ready_s", 1.5, "at most", ready_seconds),
    Target("edge.codec_and_tokenizer_MB", 7, "at most", codec_megabytes),
]
