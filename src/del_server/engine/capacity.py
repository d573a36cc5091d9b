"""Bounds of the transformers engine, and what follows from them and a model's configuration. Knows nothing of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from del_codec.errors import InvalidValue
from del_server.engine.base import Capacity


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Bounds of the engine.

    context_tokens: 0 for the model's own. running, waiting: most prompts in progress and in the queue.
    prefill_chunk: prompt tokens a round. kv_tokens: bounds the keys and values of the prompts in progress, 0 for what
    `running` prompts as long as the context need. prefix_tokens: of prefixes that are kept. probe_seconds: between
    probes of an idle model. stall_seconds: a step that takes longer makes the engine unhealthy.
    """

    context_tokens: int = 0
    running: int = 8
    waiting: int = 64
    prefill_chunk: int = 256
    kv_tokens: int = 0
    prefix_tokens: int = 4096
    probe_seconds: float = 30.0
    stall_seconds: float = 120.0


def capacity_of(model: Any, config: EngineConfig) -> Capacity:
    """What the engine takes, from the model's configuration and weights."""
    text = model.config.get_text_config(decoder=True)
    weight = model.get_input_embeddings().weight
    own = int(getattr(text, "max_position_embeddings", 0) or 0)
    asked = config.context_tokens
    context = min(own, asked) if own and asked else own or asked or 2048
    if config.kv_tokens and config.kv_tokens < context:
        raise InvalidValue("kv-tokens", config.kv_tokens, f"use 0 or at least one context of {context} tokens")
    return Capacity(
        context_tokens=context,
        embedding_width=weight.shape[1],
        vocabulary=weight.shape[0],
        eos_token_ids=eos_token_ids(model),
        dtype=weight.dtype,
        device=weight.device,
        running=config.running,
        waiting=config.waiting,
        kv_tokens=config.kv_tokens or config.running * context,
        kv_token_bytes=kv_token_bytes(text, weight.dtype),
    )


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
