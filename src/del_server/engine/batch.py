"""Answers that share the model's passes: prompts that enter together, and one token each a step for those that are in.

A pass that fails is tried again row by row, so that the one at fault fails alone. Knows nothing of queues or threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Any

from transformers import DynamicCache

from del_server.engine.recorded import Record
from del_server.engine.sampling import take
from del_server.engine.sequence import Outcome, Sequence
from del_server.engine.slots import LayerShape, Slots

logger = logging.getLogger(__name__)

# Prompts enter together while filling them up to the longest makes the pass no more than this much larger.
FILLING = 1.25

Pass = Callable[[int, SequenceOf[Sequence]], list[tuple[Sequence, Outcome]]]


class Batch:
    """Sequences with the same adapter: a row each, first those whose prompt is in, then those that are entering."""

    def __init__(self, shapes: SequenceOf[LayerShape], record: Record | None = None) -> None:
        self.sequences: list[Sequence] = []
        self.slots = Slots(shapes, record)
        self._ready = 0
        self._turns: list[Sequence] = []

    @property
    def entering(self) -> bool:
        """Whether there are prompts that are not yet in."""
        return bool(self._turns)

    @property
    def ready(self) -> bool:
        """Whether there are answers to go on with."""
        return self._ready > 0

    def nearly_in(self, budget: int) -> bool:
        """Whether the prompt whose turn it is needs no more than `budget` tokens to be in."""
        return self.entering and self._turns[0].entering <= budget

    def add(self, sequence: Sequence, prefix: DynamicCache | None) -> None:
        """Give a sequence a row, with its prefix in it."""
        self.slots.open(prefix)
        self.sequences.append(sequence)
        self._turns.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Free its row."""
        hole = self.sequences.index(sequence)
        if sequence in self._turns:
            self._turns.remove(sequence)
        if hole < self._ready:
            self._ready -= 1
            self._move(self._ready, hole)
            hole = self._ready
        self._move(len(self.sequences) - 1, hole)
        self.sequences.pop()
        self.slots.close()

    def enter(self, model: Any, budget: int) -> tuple[int, list[tuple[Sequence, Outcome]]]:
        """At most `budget` tokens of the prompts whose turn it is, in one pass; how many, and what came of it.

        A sequence whose prompt is not yet in waits behind the others for its next turn, and is not among the outcomes.
        """
        group, taken = self._next(budget)
        parts = {sequence: sequence.coming(budget_of) for sequence, budget_of in group.items()}

        def together(first: int, sequences: SequenceOf[Sequence]) -> list[tuple[Sequence, Outcome]]:
            coming = [parts[sequence] for sequence in sequences]
            logits = self.slots.enter(model, first, coming)
            whole = [
                row for row, (one, part) in enumerate(zip(sequences, coming, strict=True)) if one.entering == len(part)
            ]
            chosen = take(
                logits if len(whole) == len(logits) else logits[whole], [sequences[row].draw for row in whole]
            )
            for row, (sequence, part) in enumerate(zip(sequences, coming, strict=True), start=first):
                self.slots.advance(row, len(part))
                sequence.entered(len(part))
            return [(sequences[row], sequences[row].accept(token)) for row, token in zip(whole, chosen, strict=True)]

        first = self._arrange(group)
        outcomes = self._attempt(together, first, list(group))
        for sequence in group:
            self._turns.remove(sequence)
            if sequence.entering:
                self._turns.append(sequence)
            else:
                self._swap(self.sequences.index(sequence), self._ready)
                self._ready += 1
        return taken, outcomes

    def step(self, model: Any) -> list[tuple[Sequence, Outcome]]:
        """One more token for each that is ready; why it ends with it or how it failed, None if it goes on."""
        device = model.get_input_embeddings().weight.device

        def together(first: int, sequences: SequenceOf[Sequence]) -> list[tuple[Sequence, Outcome]]:
            logits = self.slots.step(model, [sequence.last for sequence in sequences], device, first)
            chosen = take(logits, [sequence.draw for sequence in sequences])
            for row in range(first, first + len(sequences)):
                self.slots.advance(row)
            return [(sequence, sequence.accept(token)) for sequence, token in zip(sequences, chosen, strict=True)]

        return self._attempt(together, 0, self.sequences[: self._ready])

    def _attempt(self, together: Pass, first: int, sequences: SequenceOf[Sequence]) -> list[tuple[Sequence, Outcome]]:
        try:
            return together(first, sequences)
        except Exception as error:
            if len(sequences) == 1:
                return [(sequences[0], error)]
            logger.warning("a batch of %d failed; each is tried alone", len(sequences), exc_info=True)
        outcomes: list[tuple[Sequence, Outcome]] = []
        for row, sequence in enumerate(sequences, start=first):
            try:
                outcomes += together(row, [sequence])
            except Exception as error:
                outcomes.append((sequence, error))
        return outcomes

    def _next(self, budget: int) -> tuple[dict[Sequence, int], int]:
        """Who enters next, with how many tokens each, those that finish first; and how many together."""
        group: dict[Sequence, int] = {}
        taken = widest = 0
        for sequence in self._turns:
            count = min(sequence.entering, budget - taken)
            width = max(widest, count)
            if not count or width * (len(group) + 1) > FILLING * (taken + count):
                break
            group[sequence], taken, widest = count, taken + count, width
        ordered = sorted(group, key=lambda sequence: sequence.entering > group[sequence])
        return {sequence: group[sequence] for sequence in ordered}, taken

    def _arrange(self, group: SequenceOf[Sequence] | dict[Sequence, int]) -> int:
        """Put a group's rows side by side, in its order, right behind those that are ready; the first of them."""
        for row, sequence in enumerate(group, start=self._ready):
            self._swap(self.sequences.index(sequence), row)
        return self._ready

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self.slots.swap(one, other)
            self.sequences[one], self.sequences[other] = self.sequences[other], self.sequences[one]

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self.slots.move(source, target)
            self.sequences[target] = self.sequences[source]
