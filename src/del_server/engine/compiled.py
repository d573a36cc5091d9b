"""Decode steps whose layers are compiled before they are recorded: a few kernels in place of a layer's many small ones.

All layers share the code of one, as each is given its own keys and values in place of the whole cache. Beside that,
linears that read the same input are one product, and attention takes keys as they lie, not copied for each query that
shares them. What a model's layers can't do so, or do differently, is recorded as it is. Knows nothing of sequences.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.masking_utils import sdpa_mask

from del_server import lora
from del_server.engine.probing import apart, probe
from del_server.engine.recorded import Record, Replay
from del_server.engine.siblings import siblings_of
from del_server.engine.slots import LayerShape, Slots
from del_server.models import cache_folder

logger = logging.getLogger(__name__)

# The share of their range by which logits may move: rounding, and no more. In bfloat16 products in another order moved
# those of an 8B shape by .03; a row that sees one place too many moves them by a fifth or more.
COARSE = {torch.float32: 1e-3}
COARSE_ELSE = 0.1
# Small kernels that need nothing of each other are one.
OPTIONS: dict[str, Any] = {"combo_kernels": True, "combo_kernel_foreach_dynamic_shapes": True}
# The first numbers of rows, positions and places in memory are compiled as such, then any: a few codes for each LoRA.
MOST_COMPILED = 64
GROUPED = "del_grouped"
# Rows of a step, rows in memory and tokens that they hold: steps for which all code is made that any other takes. One
# row has code of its own, and so has one beside others.
AHEAD = ((1, 1, 5), (1, 1, 9), (2, 2, 5), (1, 2, 5))


class CompiledSteps:
    """Records as `record` does, with the model's layers compiled where that gives the same.

    The model's weights move (see Siblings). What was compiled lies in the cache folder for the next process: torch
    unpickles it, so that none but this user may write there.
    """

    def __init__(self, model: Any, record: Record) -> None:
        _keep_in(cache_folder() / "compiled")
        self._record = record
        self._share = COARSE.get(model.get_input_embeddings().weight.dtype, COARSE_ELSE)
        self._config = model.config.get_text_config(decoder=True)
        names = set(getattr(model, "_no_split_modules", None) or ())
        self._layers = [module for module in model.modules() if type(module).__name__ in names]
        self._compiled = [torch.compile(layer.forward, fullgraph=True, options=OPTIONS) for layer in self._layers]
        lora.use(model, None)
        self._siblings = siblings_of(model, lambda: probe(model)) if self._layers else []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # where the weights were is the driver's again

    @property
    def compiles(self) -> bool:
        """Whether the next steps are compiled: nothing kept the latest from it."""
        return bool(self._layers)

    def ahead(self, model: Any, shapes: Sequence[LayerShape]) -> None:
        """Compile for steps of any size, so that no answer waits for it: with each of the model's adapters, and none.

        shapes: of its layers' keys and values.
        """
        device = model.get_input_embeddings().weight.device
        for adapter in (None, *lora.names(model)):
            lora.use(model, adapter)
            for rows, held, tokens in AHEAD:
                slots = Slots(shapes, self)
                for row in range(held):
                    slots.open()
                    slots.advance(row, tokens)
                slots.step(model, [1] * rows, device)

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """See Record. `run` gives the same again when it is run twice."""
        if self._layers:
            expected = run().clone()
            try:
                with self._in_use():
                    moved = apart(run(), expected)
                    if moved <= self._share:
                        return self._record(run)
                logger.warning("compiled layers move logits by %.3f of their range; steps go on without", moved)
            except Exception:
                logger.warning("the model's layers can't be compiled; steps go on without", exc_info=True)
            self._layers = []
        return self._record(run)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        attention = self._config._attn_implementation
        with ExitStack() as stack:
            for siblings in self._siblings:
                stack.enter_context(siblings.in_use())
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=MOST_COMPILED))
            try:
                if attention == "sdpa":
                    self._config._attn_implementation = GROUPED
                for index, (layer, compiled) in enumerate(zip(self._layers, self._compiled, strict=True)):
                    layer.forward = _with_own_cache(compiled, index)
                yield
            finally:
                self._config._attn_implementation = attention
                for layer in self._layers:
                    layer.__dict__.pop("forward", None)


def _keep_in(cache: Path) -> None:
    """Have torch keep what it compiles there, unless somebody chose otherwise."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)


def grouped_attention(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """[n, 1, H, W] of queries [n, H, 1, W], keys and values [n, G, T, W] and a mask [n, 1, 1, T] added to the scores:
    the H / G queries that share keys are those of one head."""
    rows, heads, width = query.shape[0], query.shape[1], query.shape[3]
    shared = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
    attended = F.scaled_dot_product_attention(shared, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


def _with_own_cache(compiled: Callable[..., Any], index: int) -> Callable[..., Any]:
    """A layer's forward, which is given the cache's part of its own: what tells layers apart would be compiled in."""

    def own(value: Any) -> Any:
        return value.layers[index] if isinstance(value, Cache) else value

    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*map(own, args), **{name: own(value) for name, value in kwargs.items()})

    return forward
