"""SmolLM2 and the first shipped codec as a server has them, loaded once a process; and one server of them."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache
from typing import Any

from benchmarks.server_process import ServerProcess, running_server
from del_codec.shipped import codec_folders
from del_server.codec import ServedCodec
from del_server.models import load_model

NAME = "smollm2"


@cache
def model() -> Any:
    """The language model."""
    return load_model(NAME)


@cache
def codec() -> ServedCodec:
    """With its decoder and soft prompt."""
    return ServedCodec.load(codec_folders()[0], model())


@cache
def server(*options: str) -> ServerProcess:
    """`del-server serve` with these options, for all sections of a run; it ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running_server(*options))
