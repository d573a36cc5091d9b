"""Bounds of the transformers engine, and what follows from them and a model's configuration. Knows nothing of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from del_codec.errors import InvalidValue
from del_server.engine.base import Capacity

CPU_CHUNK, GPU_CHUNK = 256, 2048
# Of a GPU's free memory, for keys and values; the rest is for what passes take.
GPU_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds of the engine.

    context_tokens: 0 for the model's own. running, waiting: most prompts in progress and in the queue.
    prefill_chunk: prompt tokens a round, 0 for what suits the device. kv_tokens: bounds the keys and values of the
    prompts in progress, 0 for what `running` prompts as long as the context need, as far as a GPU's memory goes.
    kv_bytes: bounds the memory of all keys and values instead. prefix_tokens: of prefixes that are kept. record_steps:
    record decode steps where the device can replay them. compile_steps: compile those first. probe_seconds: between
    probes of an idle model. stall_seconds: a step that takes longer makes the engine unhealthy. dead_seconds: an engine
    whose steps fail for longer gives up, once a failure shows it.
    """

    context_tokens: int = 0
    running: int = 8
    waiting: int = 64
    prefill_chunk: int = 0
    kv_tokens: int = 0
    kv_bytes: int = 0
    prefix_tokens: int = 4096
    record_steps: bool = True
    compile_steps: bool = False
    probe_seconds: float = 30.0
    stall_seconds: float = 120.0
    dead_seconds: float = 60.0


def capacity_of(model: Any, config: EngineConfig) -> Capacity:
    """What the engine takes, from the model's configuration and weights."""
    text = model.config.get_text_config(decoder=True)
    weight = model.get_input_embeddings().weight
    own = int(getattr(text, "max_position_embeddings", 0) or 0)
    asked = config.context_tokens
    context = min(own, asked) if own and asked else own or asked or 2048
    layers, token_bytes = int(text.num_hidden_layers), kv_token_bytes(text, weight.dtype)
    kv_tokens = _kv_tokens(config, context, token_bytes, layers, weight.device)
    return Capacity(
        context_tokens=context,
        embedding_width=weight.shape[1],
        vocabulary=weight.shape[0],
        eos_token_ids=eos_token_ids(model),
        dtype=weight.dtype,
        device=weight.device,
        running=config.running,
        waiting=config.waiting,
        kv_tokens=kv_tokens,
        kv_token_bytes=token_bytes,
        kv_bytes=_kv_bytes(kv_tokens, token_bytes, layers, config.prefix_tokens),
    )


def prefill_chunk(config: EngineConfig, capacity: Capacity) -> int:
    """Prompt tokens a round: so many that the device is busy, so few that answers in progress don't wait for long."""
    return config.prefill_chunk or (GPU_CHUNK if capacity.device.type == "cuda" else CPU_CHUNK)


def _kv_tokens(config: EngineConfig, context: int, token_bytes: int, layers: int, device: torch.device) -> int:
    """Positions of the prompts in progress. Raises InvalidValue for a bound that not even one context fits."""
    if config.kv_bytes:
        found = _fitting(config.kv_bytes, token_bytes, layers, config.prefix_tokens)
        if found < context:
            least = _kv_bytes(context, token_bytes, layers, config.prefix_tokens)
            raise InvalidValue(
                "kv-bytes", config.kv_bytes, f"use 0 or at least {least}: one context of {context} tokens"
            )
        return found
    if config.kv_tokens:
        if config.kv_tokens < context:
            raise InvalidValue("kv-tokens", config.kv_tokens, f"use 0 or at least one context of {context} tokens")
        return config.kv_tokens
    wanted = config.running * context
    if device.type != "cuda":
        return wanted
    free = int(GPU_SHARE * torch.cuda.mem_get_info(device)[0])
    return max(context, min(wanted, _fitting(free, token_bytes, layers, config.prefix_tokens)))


def _kv_bytes(kv_tokens: int, token_bytes: int, layers: int, prefix_tokens: int) -> int:
    """Memory of so many positions, of kept prefixes, and of one layer twice: buffers grow a layer at a time."""
    return (kv_tokens + prefix_tokens) * token_bytes + -(-kv_tokens * token_bytes // layers)


def _fitting(kv_bytes: int, token_bytes: int, layers: int, prefix_tokens: int) -> int:
    """The inverse: the most positions that so much memory holds."""
    return max(0, (kv_bytes - prefix_tokens * token_bytes) * layers // (token_bytes * (layers + 1)))


def kv_token_bytes(text: Any, dtype: torch.dtype) -> int:
    """Bytes of one position's keys and values in all layers, for a configuration's shapes."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * dtype.itemsize)


def eos_token_ids(model: Any) -> frozenset[int]:
    """Tokens that end an answer: of the generation configuration, else of the model's."""
    for config in (getattr(model, "generation_config", None), model.config.get_text_config(decoder=True)):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, (list, tuple)) else [found])
    return frozenset()
