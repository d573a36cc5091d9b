"""Decode steps whose layers are compiled before they are recorded: a few kernels in place of a layer's many small ones.

All layers share the code of one, as each is given its own keys and values in place of the whole cache. What a model's
layers can't do so, or do differently, is recorded as it is. Knows nothing of sequences or memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from del_server.engine.recorded import Record, Replay

logger = logging.getLogger(__name__)

# The share of their range by which logits may move: rounding, and no more.
COARSE = {torch.float32: 1e-3}
COARSE_ELSE = 5e-2


class CompiledSteps:
    """Records as `record` does, with the model's layers compiled where that gives the same."""

    def __init__(self, model: Any, record: Record) -> None:
        self._record = record
        self._share = COARSE.get(model.get_input_embeddings().weight.dtype, COARSE_ELSE)
        names = set(getattr(model, "_no_split_modules", None) or ())
        self._layers = [module for module in model.modules() if type(module).__name__ in names]
        self._compiled = [torch.compile(layer.forward, fullgraph=True) for layer in self._layers]

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """See Record. `run` gives the same again when it is run twice."""
        if self._layers:
            expected = run().clone()
            try:
                with self._in_use():
                    apart = _apart(run(), expected)
                    if apart <= self._share:
                        return self._record(run)
                logger.warning("compiled layers move logits by %.3f of their range; steps go on without", apart)
            except Exception:
                logger.warning("the model's layers can't be compiled; steps go on without", exc_info=True)
            self._layers = []
        return self._record(run)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        try:
            for index, (layer, compiled) in enumerate(zip(self._layers, self._compiled, strict=True)):
                layer.forward = _with_own_cache(compiled, index)
            yield
        finally:
            for layer in self._layers:
                layer.__dict__.pop("forward", None)


def _with_own_cache(compiled: Callable[..., Any], index: int) -> Callable[..., Any]:
    """A layer's forward, which is given the cache's part of its own: what tells layers apart would be compiled in."""

    def own(value: Any) -> Any:
        return value.layers[index] if isinstance(value, Cache) else value

    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*map(own, args), **{name: own(value) for name, value in kwargs.items()})

    return forward


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()))
