"""Answers that decode together, one token each a step, and whether a model can do so.

A step that fails is tried again row by row, so that the one at fault fails alone. Knows nothing of queues or threads.
"""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from del_server.engine.base import Reason
from del_server.engine.job import forward, token_input
from del_server.engine.sequence import Sequence
from del_server.engine.slots import Slots

logger = logging.getLogger(__name__)

ATTENTION = ("sdpa", "eager")

Outcome = Reason | Exception | None


class Batch:
    """Sequences whose prompts are in; all of them with the same adapter."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self._slots = Slots()

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return self._slots.bytes

    def add(self, sequence: Sequence) -> None:
        """Take a sequence over, its cache with it."""
        self._slots.add(sequence.hand_over())
        self.sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Free its row."""
        row = self.sequences.index(sequence)
        self._slots.remove(row)
        self.sequences[row] = self.sequences[-1]
        self.sequences.pop()

    def step(self, model: Any) -> list[tuple[Sequence, Outcome]]:
        """One more token for each; why it ends with it or how it failed, None if it goes on."""
        try:
            return self._step_rows(model, 0, len(self.sequences))
        except Exception:
            if len(self.sequences) == 1:
                raise
            logger.warning("a batch of %d failed; each is tried alone", len(self.sequences), exc_info=True)
        outcomes: list[tuple[Sequence, Outcome]] = []
        for row, sequence in enumerate(self.sequences):
            try:
                outcomes += self._step_rows(model, row, row + 1)
            except Exception as error:
                outcomes.append((sequence, error))
        return outcomes

    def _step_rows(self, model: Any, first: int, last: int) -> list[tuple[Sequence, Outcome]]:
        sequences = self.sequences[first:last]
        logits = self._slots.step(model, token_input(model, [sequence.last for sequence in sequences]), first)
        outcomes: list[tuple[Sequence, Outcome]] = []
        for row, sequence in enumerate(sequences):
            outcome: Outcome
            try:
                outcome = sequence.take(logits[row])
            except Exception as error:
                outcome = error
            self._slots.advance(first + row)
            outcomes.append((sequence, outcome))
        return outcomes


@torch.inference_mode()
def can_batch(model: Any) -> bool:
    """Whether the model gives rows of different lengths, decoded together, the logits that it gives each alone.

    Tried out on two short prompts, so that no list of architectures is needed. Models with sliding windows or states
    other than keys and values are not tried, nor is attention that takes no ready mask.
    """
    layers = DynamicCache(config=model.config).layers
    plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
    if not plain or getattr(model.config, "_attn_implementation", "") not in ATTENTION:
        return False
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return False
    try:
        return _agrees(model)
    except Exception:
        logger.warning("the model can't decode a batch of rows of different lengths", exc_info=True)
        return False


def _agrees(model: Any) -> bool:
    slots, alone = Slots(), []
    count = int(model.get_input_embeddings().weight.shape[0])
    for length in (7, 2):
        cache = DynamicCache(config=model.config)
        forward(model, cache, input_ids=token_input(model, [[(5 * i + length) % count for i in range(length)]]))
        slots.add(cache)
        alone.append(forward(model, copy.deepcopy(cache), input_ids=token_input(model, [[1]])))
    together, expected = slots.step(model, token_input(model, [1, 1])), torch.stack(alone)
    share = 1e-3 if together.dtype == model.dtype else 5e-2
    worst = (together - expected).abs().max()
    return bool(worst <= share * (expected.max() - expected.min()))
