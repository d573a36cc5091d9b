"""Decode steps recorded once and replayed: without the time that Python takes to launch a model's many kernels.

A recording has a fixed number of rows and of positions that they see; a step takes the smallest that it fits. Knows
nothing of models, sequences or memory.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LEAST_POSITIONS = 128
# A step sees at most this share more positions than it needs.
SPARE_POSITIONS = 4

Replay = Callable[[], object]
# Runs a pass and keeps what it did: a replay of it, and the output that each replay fills anew.
Record = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
# Logits [n, V] of ids [n, 1] at positions [n, 1] that see so many.
Forward = Callable[[Tensor, Tensor, int], Tensor]


class RecordedSteps:
    """The recordings of one batch, by rows and positions."""

    def __init__(self, record: Record) -> None:
        self._record: Record | None = record
        self._steps: dict[tuple[int, int], tuple[Replay, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Drop all of them: the memory that they write has moved."""
        self._steps.clear()

    def step(
        self,
        forward: Forward,
        ids: Sequence[int],
        lengths: Sequence[int],
        longest: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> Tensor | None:
        """Logits [n, V] of ids [n], valid until the next step; None where steps can't be recorded.

        lengths: of those n rows and of any that follow them in memory. longest: positions that the n rows see.
        size: rows and tokens of the memory.
        """
        if self._record is None:
            return None
        rows, seen = bucket_of_rows(len(ids), size[0]), bucket_of_positions(longest, size[1])
        places = [*lengths, *[0] * rows][:rows]
        given = torch.tensor([[*ids, *[0] * (rows - len(ids))], places]).unsqueeze(2)
        if (rows, seen) not in self._steps:
            inputs = given.to(device, copy=True)
            try:
                replay, logits = self._record(lambda: forward(inputs[0], inputs[1], seen))
            except Exception:
                logger.warning("decode steps can't be recorded here; they go on without", exc_info=True)
                self._record = None
                self.forget()
                return None
            self._steps[rows, seen] = replay, logits, inputs
        replay, logits, inputs = self._steps[rows, seen]
        inputs.copy_(given)
        replay()
        return logits[: len(ids)]


def bucket_of_rows(rows: int, most: int) -> int:
    """The next power of two, as far as there are so many."""
    return min(1 << (rows - 1).bit_length(), most)


def bucket_of_positions(positions: int, most: int) -> int:
    """The next of a series whose steps are about a quarter apart, as far as there are so many."""
    step = max(LEAST_POSITIONS, (1 << (positions - 1).bit_length()) // (2 * SPARE_POSITIONS))
    return min(-(-positions // step) * step, most)


class CudaGraphs:
    """Records with CUDA graphs, all in one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """See Record. `run` writes what it computes in the same places each time."""
        if not self._alive:
            # The allocator gives a pool up with its last graph and takes no other into it.
            self._pool = torch.cuda.graph_pool_handle()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Another thread decodes prompts on the same device, and must be free to allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()
        self._alive.add(graph)
        return graph.replay, output


def recorder_of(model: Any) -> Record | None:
    """What records this model's steps: CUDA graphs where all of it is on one GPU, else nothing."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        return None
    return CudaGraphs()
