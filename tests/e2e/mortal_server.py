"""`del-server` that dies in a phase of a query: `python mortal_server.py PHASE MODEL CODEC PORT`; "none" lives."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from del_server.app import load, running
from del_server.config import ServeConfig
from del_server.engine.batch import Batch
from del_server.service.servicer import InferenceService
from del_server.service.stream import Stream

STEPS = 6
SPARE_BYTES = 64 << 20


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory() -> None:
    """Take more than there is: of a memory cgroup of our own, which the kernel ends us for."""
    group = Path(memory_groups()) / f"del-{os.getpid()}"
    group.mkdir()
    limit = group / ("memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes")
    limit.write_text(str(SPARE_BYTES))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    bytearray(os.urandom(1)) * (8 * SPARE_BYTES)


def memory_groups() -> str:
    """The folder in which a memory cgroup can be made; "" where none can."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    if (first / "memory.limit_in_bytes").exists():
        return str(first) if os.access(first, os.W_OK) else ""
    handed_down = second / "cgroup.subtree_control"
    if handed_down.exists() and "memory" in handed_down.read_text().split() and os.access(second, os.W_OK):
        return str(second)
    return ""


def after(count: int, step: Callable[..., Any], deed: Callable[[], Any]) -> Callable[..., Any]:
    """The step, and after so many of them the deed."""
    done = [0]

    def stepped(*arguments: Any, **options: Any) -> Any:
        done[0] += 1
        if done[0] > count:
            deed()
        return step(*arguments, **options)

    return stepped


def prepare(phase: str) -> None:
    """Die in that phase. Sets what the service and the engine do in it."""
    download, serve_step = InferenceService.DownloadCodec, Batch.step

    async def cut_short(self: InferenceService, request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in download(self, request, context):
            yield response
            await asyncio.sleep(0.05)
            die()

    if phase == "info":
        InferenceService.GetServerInfo = die  # type: ignore[method-assign]
    elif phase == "codec":
        InferenceService.DownloadCodec = cut_short  # type: ignore[method-assign]
    elif phase == "prefill":
        Batch.enter = die  # type: ignore[method-assign]
    elif phase == "stream":
        Batch.step = after(STEPS, serve_step, die)  # type: ignore[method-assign]
    elif phase == "memory":
        Batch.step = after(STEPS, serve_step, out_of_memory)  # type: ignore[method-assign]
    elif phase == "last":
        Stream._finish = die  # type: ignore[method-assign]
    elif phase != "none":
        raise SystemExit(f"no such phase: {phase}")


async def serve(config: ServeConfig) -> None:
    stopping, backend = asyncio.Event(), load(config)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with running(backend, config) as port:
        print(f"ready on {config.host}:{port}", flush=True)
        await stopping.wait()


def main() -> None:
    """One life."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase")
    parser.add_argument("model")
    parser.add_argument("codec", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    if arguments.phase == "connect":
        with socket.create_server(("127.0.0.1", arguments.port)) as listening:
            print(f"ready on 127.0.0.1:{arguments.port}", flush=True)
            listening.accept()
            die()
    prepare(arguments.phase)
    asyncio.run(
        serve(
            ServeConfig(
                model=arguments.model, codecs=(arguments.codec,), port=arguments.port, dtype="float32", device="cpu"
            )
        )
    )


if __name__ == "__main__":
    main()
