"""What is found out of a model by trying: that it answers, and whether its sequences can share a pass.

Knows nothing of queues or answers.
"""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from del_server.engine.job import forward, token_input
from del_server.engine.slots import LayerShape, Slots, shapes_of

logger = logging.getLogger(__name__)

ATTENTION = ("sdpa", "eager")


def probe(model: Any) -> None:
    """A prefill and a decode step of a prompt of two tokens; raises what the model raises."""
    ids = token_input(model, [[0, 0]])
    cache = DynamicCache(config=model.config)
    forward(model, cache, inputs_embeds=model.get_input_embeddings()(ids))
    forward(model, cache, input_ids=ids[:, :1])


@torch.inference_mode()
def shared_layers(model: Any) -> tuple[LayerShape, ...] | None:
    """Its layers' keys and values, if rows of different lengths get the logits together that each gets alone.

    Tried out on two short prompts, so that no list of architectures is needed. Models with sliding windows or states
    other than keys and values are not tried, nor is attention that takes no ready mask.
    """
    layers = DynamicCache(config=model.config).layers
    plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    if not plain or getattr(model.config, "_attn_implementation", "") not in ATTENTION:
        return None
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return None
    try:
        return _tried(model)
    except Exception:
        logger.warning("the model can't take rows of different lengths together", exc_info=True)
        return None


def _tried(model: Any) -> tuple[LayerShape, ...] | None:
    """Two prompts enter together, and each makes a step; then the same alone."""
    count = int(model.get_input_embeddings().weight.shape[0])
    ids = [token_input(model, [[(5 * i + length) % count for i in range(length)]]) for length in (7, 4)]
    prompts = [model.get_input_embeddings()(row)[0] for row in ids]
    caches = [DynamicCache(config=model.config) for _ in ids]
    expected = [
        torch.stack(
            [forward(model, cache, inputs_embeds=one[None]) for cache, one in zip(caches, prompts, strict=True)]
        ),
        torch.stack([forward(model, copy.deepcopy(cache), input_ids=token_input(model, [[1]])) for cache in caches]),
    ]
    shapes = shapes_of(caches[0])
    slots = Slots(shapes)
    for _ in prompts:
        slots.open()
    together = [slots.enter(model, 0, prompts)]
    for row, prompt in enumerate(prompts):
        slots.advance(row, len(prompt))
    together.append(slots.step(model, [1, 1], ids[0].device))
    share = 1e-3 if prompts[0].dtype == torch.float32 else _coarse(model, prompts, expected[0])
    return shapes if all(apart(*pair) <= share for pair in zip(together, expected, strict=True)) else None


def _coarse(model: Any, prompts: list[torch.Tensor], expected: torch.Tensor) -> float:
    """The share of their range by which logits may differ in a type of few digits.

    Three times as much as they do when a prompt enters in two passes. In bfloat16 that is much for deep models of large
    layers; a row that sees one place too many moved them by a fifth or more (SmolLM2, an 8B shape).
    """
    halved = []
    for prompt in prompts:
        cache = DynamicCache(config=model.config)
        forward(model, cache, inputs_embeds=prompt[None, : len(prompt) // 2])
        halved.append(forward(model, cache, inputs_embeds=prompt[None, len(prompt) // 2 :]))
    return min(max(5e-2, 3 * apart(torch.stack(halved), expected)), 0.12)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The share of their range by which logits differ at most."""
    return float((found - expected).abs().max() / (expected.max() - expected.min()))
