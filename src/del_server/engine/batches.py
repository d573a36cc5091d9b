"""The batches of an engine, one for each adapter, and how they share the memory for keys and values.

Knows nothing of queues or threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Any

from del_server import lora
from del_server.engine.batch import Batch
from del_server.engine.job import Job
from del_server.engine.prefixes import Prefixes
from del_server.engine.recorded import Record
from del_server.engine.sequence import Outcome, Sequence
from del_server.engine.slots import LayerShape

# Rounds one after another whose step waits for short prompts that enter.
MOST_PUT_OFF = 3

Outcomes = list[tuple[Sequence, Outcome]]


class Batches:
    """Sequences that share passes of a model of such layers; `kv_tokens` positions of keys and values at most."""

    def __init__(
        self,
        model: Any,
        shapes: SequenceOf[LayerShape],
        prefixes: Prefixes,
        kv_tokens: int,
        record: Record | None = None,
    ) -> None:
        self._model, self._shapes, self._prefixes, self._record = model, shapes, prefixes, record
        self._kv_tokens = kv_tokens
        self._put_off = 0
        self._batches: dict[str | None, Batch] = {}
        self._seats: dict[Sequence, Batch] = {}

    def __contains__(self, job: Job) -> bool:
        return job in self._seats

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return sum(batch.slots.bytes for batch in self._batches.values())

    def seat(self, sequence: Sequence) -> None:
        """Give a sequence a row; its prefix is computed if need be."""
        lora.use(self._model, sequence.adapter)
        prefix = self._prefixes.cache(self._model, sequence.prefix, sequence.adapter)
        batch = self._batches.get(sequence.adapter) or Batch(self._shapes, self._record)
        batch.add(sequence, prefix)
        self._batches[sequence.adapter] = self._seats[sequence] = batch

    def remove(self, sequence: Sequence) -> None:
        """Free its row."""
        batch = self._seats.pop(sequence)
        batch.remove(sequence)
        if not batch.sequences and self._record is None:  # else its recordings wait for the next
            del self._batches[sequence.adapter]

    def share(self, jobs: SequenceOf[Job]) -> None:
        """Divide what memory these jobs' needs leave among the batches, for buffers that have some to spare."""
        needs, alone = kv_needs(jobs)
        free = max(0, self._kv_tokens - alone - sum(needs.values()))
        for adapter, batch in self._batches.items():
            batch.slots.bound(needs.get(adapter, 0) + free // len(self._batches))

    def enter(self, budget: int) -> Iterator[Outcomes]:
        """Pass after pass, at most `budget` tokens of prompts; what came of each."""
        for adapter, batch in list(self._batches.items()):
            while budget > 0 and batch.entering:
                try:
                    lora.use(self._model, adapter)
                    taken, outcomes = batch.enter(self._model, budget)
                except Exception as error:
                    yield [(sequence, error) for sequence in batch.sequences]
                    break
                budget -= taken
                yield outcomes

    def put_off(self, budget: int) -> bool:
        """Whether a round had better end without a step, since the next one's `budget` tokens bring further prompts in:
        a step of few rows takes nearly as long as one of many. Says so MOST_PUT_OFF times in a row at most."""
        wait = self._put_off < MOST_PUT_OFF and any(batch.nearly_in(budget) for batch in self._batches.values())
        self._put_off = self._put_off + 1 if wait else 0
        return wait

    def step(self) -> Iterator[Outcomes]:
        """One more token for each sequence whose prompt is in, batch by batch."""
        for adapter, batch in list(self._batches.items()):
            if not batch.ready:
                continue
            try:
                lora.use(self._model, adapter)
                outcomes = batch.step(self._model)
            except Exception as error:
                outcomes = [(sequence, error) for sequence in batch.sequences]
            yield outcomes


def kv_needs(jobs: SequenceOf[Job]) -> tuple[dict[str | None, int], int]:
    """Positions of keys and values that jobs may come to take: by batch, in which each has as many as the longest, and
    of those that are in none."""
    alone, longest = 0, defaultdict[str | None, list[int]](list)
    for job in jobs:
        if isinstance(job, Sequence):
            longest[job.adapter].append(job.kv_tokens)
        else:
            alone += job.kv_tokens
    return {adapter: len(needs) * max(needs) for adapter, needs in longest.items()}, alone


def kv_cost(jobs: SequenceOf[Job]) -> int:
    """All of these positions together."""
    needs, alone = kv_needs(jobs)
    return alone + sum(needs.values())
