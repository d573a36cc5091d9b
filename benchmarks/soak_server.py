"""`del-server serve` that tells what it holds: a line of JSON in a file, each time it gets SIGUSR1.

`python -m benchmarks.soak_server FILE MODEL CODEC`: same ready line; on the CPU in float32, on a free port.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.held import held
from del_server.app import load, running
from del_server.backend import Backend
from del_server.config import ServeConfig
from del_server.metrics.serving import OUTCOMES


def reading(backend: Backend) -> dict[str, Any]:
    """What the process holds, what its engine does, and how the queries ended that it had."""
    busy, sample = backend.engine.load(), backend.metrics.registry.get_sample_value
    ended = {outcome: sample("del_server_queries_total", {"outcome": outcome}) for outcome in OUTCOMES}
    return {
        **held(),
        "places taken": backend.admission.taken,
        "slots taken": busy.running + busy.waiting,
        "keys and values promised": busy.kv_tokens,
        "keys and values": busy.kv_bytes / 2**20,
        "ended": ended,
    }


async def serve(file: Path, config: ServeConfig) -> None:
    """Until SIGTERM."""
    stopping, loop, backend = asyncio.Event(), asyncio.get_running_loop(), load(config)

    def tell() -> None:
        with file.open("a") as lines:
            lines.write(json.dumps(reading(backend)) + "\n")

    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGUSR1, tell)
    async with running(backend, config) as port:
        print(f"soak server ready on {config.host}:{port}", flush=True)
        await stopping.wait()


def main() -> None:
    """Serve until told to stop."""
    file, model, codec = sys.argv[1:]
    config = ServeConfig(model=model, codecs=(Path(codec),), port=0, dtype="float32", device="cpu", drain_seconds=5.0)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(file), config))


if __name__ == "__main__":
    main()
