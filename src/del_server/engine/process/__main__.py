"""The program of a worker: `python -m del_server.engine.process FD`, FD being its end of a socket pair.

The first frame says what to load. Signals that are meant for the server's whole group are ignored: the server drains,
and says when to stop. When it is gone, so is the worker, whatever it is at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from del_codec.errors import ArtifactError, DelError, EngineError, first_line
from del_server import lora
from del_server.engine.capacity import EngineConfig
from del_server.engine.process.frames import Frames, Message
from del_server.engine.process.worker import Worker
from del_server.engine.transformers import TransformersEngine
from del_server.logs import set_up
from del_server.models import load_model

ORPHAN_SECONDS = 0.5


def main() -> None:
    """Work until told to stop, then leave at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_without, args=(os.getppid(),), name="parent", daemon=True).start()
    asyncio.run(_work(socket.socket(fileno=int(sys.argv[1]))))


async def _work(end: socket.socket) -> None:
    frames = await Frames.over(end)
    received = await frames.receive()
    if received is None:
        return
    try:
        engine = await asyncio.to_thread(engine_of, received[0])
        await engine.start()
    except Exception as error:
        logging.getLogger(__name__).exception("the worker can't start")
        what = error if isinstance(error, DelError) else EngineError(f"{type(error).__name__}: {first_line(error)}")
        frames.send({"say": "failed", "why": str(what)})
        await frames.flush()
        frames.close()
        return
    await Worker(frames, engine).serve()
    os._exit(0)  # a step that hangs must not hold it up


def engine_of(asked: Message) -> TransformersEngine:
    """The engine that the first frame describes. Raises ArtifactError for a model or adapter that can't be had."""
    set_up(asked["log_format"], asked["log_level"])
    model = load_model(asked["model"], asked["dtype"], asked["device"])
    for name, folder in asked["adapters"].items():
        if lora.load_once(model, Path(folder)) != name:
            raise ArtifactError(f"{folder} holds another adapter than when the server started: start the server again")
    return TransformersEngine(model, EngineConfig(**asked["bounds"]))


def _leave_without(parent: int) -> None:
    """A parent that was killed says nothing, and the loop may be too busy to see its socket close."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
