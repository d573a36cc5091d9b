"""The same faults in vLLM's worker, another process: files are its valve and its count of steps."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from engine_faults import MARK

from del_server.embedding_model import TokenEmbedder, load_embedding_model
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.vllm.arguments import Adapters, engine_args, launcher
from del_server.engine.vllm.engine import VllmEngine
from del_server.models import dtype_of

CLOSED, STEPS = "closed", "steps"
RUNNING = 16


class FaultyWorker:
    """What vLLM's worker is given besides its own methods (worker_extension_cls)."""

    model_runner: Any

    def fit_faults(self, folder: str) -> None:
        """From now on: no step while the valve's file is there, a byte more for each step, and none for MARKs."""
        model = self.model_runner.model
        forward, closed, steps = model.forward, Path(folder) / CLOSED, Path(folder) / STEPS

        def faulty(*arguments: Any, **inputs: Any) -> Any:
            while closed.exists():
                time.sleep(0.001)
            with steps.open("ab") as stream:
                stream.write(b".")
            embeddings = inputs.get("inputs_embeds")
            if embeddings is not None and bool((embeddings == MARK).all(dim=1).any()):
                raise RuntimeError("device-side assert triggered")
            return forward(*arguments, **inputs)

        model.forward = faulty


class Valve:
    """As threading.Event: cleared, the model stops."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self) -> None:
        self._file.unlink(missing_ok=True)

    def clear(self) -> None:
        self._file.touch()


class VllmFaults:
    """As engine_faults.Faults, for one process of vLLM after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open = Valve(folder / CLOSED)
        (folder / STEPS).touch()

    @property
    def steps(self) -> int:
        return os.stat(self.folder / STEPS).st_size


class Kept:
    """A vLLM that outlives the engines that have it: starting it takes long."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def shutdown(self) -> None:
        """Not yet."""


class Wide:
    """A model's folder, its embeddings, and how to have it in vLLM with faults or LoRAs."""

    def __init__(self, folder: Path, faults: VllmFaults, **settings: Any) -> None:
        self.folder, self.faults = folder, faults
        self.embedding_model = load_embedding_model(str(folder), dtype_of("float32", cuda=False))
        self.embed = TokenEmbedder(self.embedding_model)
        self.settings = {"worker_extension_cls": "vllm_faults.FaultyWorker", **settings}

    async def launch(self, adapters: Adapters) -> Any:
        capacity = capacity_of(self.embedding_model, EngineConfig(running=RUNNING))
        llm = launcher(engine_args(str(self.folder), capacity, self.settings, adapters))()
        await llm.collective_rpc("fit_faults", args=(str(self.faults.folder),))
        return llm

    def engine(self, llm: Any, adapters: dict[str, Path] | None = None, **bounds: Any) -> VllmEngine:
        config = EngineConfig(**bounds)
        patience = {"probe_seconds": config.probe_seconds, "stall_seconds": config.stall_seconds}
        return VllmEngine(capacity_of(self.embedding_model, config), lambda: llm, self.embed, adapters, **patience)
