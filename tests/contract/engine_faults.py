"""A model with faults, and the engines that tests can have it run by."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from del_server.engine.base import Engine

ENGINES = ["transformers"] + (["vllm"] if importlib.util.find_spec("vllm") else [])
MARK = 7.0

StartEngine = Callable[..., AbstractAsyncContextManager[tuple[Engine, Any]]]


class Faults:
    """A model with a valve and a fault: it stops while `open` is cleared, and fails on a prompt of MARKs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.open = threading.Event()
        self.open.set()
        self.dead = False
        self.steps = 0
        self._forward = model.forward
        model.forward = self.forward

    def forward(self, **inputs: Any) -> Any:
        self.open.wait()
        self.steps += 1
        embeddings = inputs.get("inputs_embeds")
        if self.dead or (embeddings is not None and bool((embeddings == MARK).flatten(1).all(dim=1).any())):
            raise RuntimeError("device-side assert triggered")
        return self._forward(**inputs)
