"""Several engines with the same weights as one: a prompt goes to the one that has least to do.

An engine that does not answer is left out until it does again. What it had under way ends as with a server that went
away: a client that sends the same bytes again gets the rest from another one. Knows nothing of devices or of how
engines are made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from del_codec.errors import ExhaustedError, UnavailableError
from del_server.engine.base import Capacity, Engine, Generation, Health, Load, Prefix, Sampling, Scoring

Job = TypeVar("Job")


class Replicas(Engine):
    """Engines, two at least, of the same capacity but for their devices."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self.name = engines[0].name
        self.capacity = together([engine.capacity for engine in engines])
        # A prefix of each engine's own, on its device, by the handle that was given out.
        self._prefixes: dict[Prefix, tuple[Prefix, ...]] = {}

    async def start(self) -> None:
        """See Engine. If one can't start, none does."""
        try:
            await asyncio.gather(*(engine.start() for engine in self._engines))
        except BaseException:
            await self.stop()
            raise
        # Some engines know their memory once they have started.
        self.capacity = together([engine.capacity for engine in self._engines])

    async def stop(self) -> None:
        """See Engine."""
        await asyncio.gather(*(engine.stop() for engine in self._engines))

    def prefix(self, embeddings: Tensor) -> Prefix:
        """See Engine."""
        handle = super().prefix(embeddings)
        self._prefixes[handle] = tuple(engine.prefix(embeddings.to(engine.capacity.device)) for engine in self._engines)
        return handle

    def submit(
        self,
        prompt: Tensor,
        sampling: Sampling,
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Generation:
        """See Engine."""

        def queue(engine: Engine, own: Prefix | None) -> Generation:
            return engine.submit(prompt.to(engine.capacity.device), sampling, adapter, own, caller)

        return self._least_loaded(queue, prefix)

    def score(
        self,
        prompt: Tensor,
        candidates: Sequence[Sequence[int]],
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Scoring:
        """See Engine."""

        def queue(engine: Engine, own: Prefix | None) -> Scoring:
            return engine.score(prompt.to(engine.capacity.device), candidates, adapter, own, caller)

        return self._least_loaded(queue, prefix)

    def load(self) -> Load:
        """See Engine."""
        loads = [engine.load() for engine in self._engines]
        return Load(
            sum(load.running for load in loads),
            sum(load.waiting for load in loads),
            sum(load.kv_tokens for load in loads),
            sum(load.kv_bytes for load in loads),
        )

    def health(self) -> Health:
        """Ok while one of them is; fatal once all are."""
        healths = [engine.health() for engine in self._engines]
        ok = sum(health.ok for health in healths)
        faults = "; ".join(f"replica {index}: {health.detail}" for index, health in enumerate(healths) if not health.ok)
        detail = f"{ok} of {len(healths)} replicas answer" + (f" ({faults})" if faults else "")
        return Health(ok > 0, detail, all(health.fatal for health in healths), tuple(healths))

    def _least_loaded(self, queue: Callable[[Engine, Prefix | None], Job], prefix: Prefix | None) -> Job:
        """Queue a job with the engine that has least to do, of those that answer; with the next if that one can't."""

        def busy(index: int) -> tuple[bool, int]:
            load = self._engines[index].load()
            return not self._engines[index].health().ok, load.running + load.waiting

        refused: Exception = UnavailableError("no replica is running; send the same bytes to another server")
        for index in sorted(range(len(self._engines)), key=busy):
            own = self._prefixes[prefix][index] if prefix is not None else None
            try:
                return queue(self._engines[index], own)
            except UnavailableError as error:
                refused = error if not isinstance(refused, ExhaustedError) else refused
            except ExhaustedError as error:
                refused = error
        raise refused


def together(capacities: Sequence[Capacity]) -> Capacity:
    """What engines take that share the prompts."""
    return replace(
        capacities[0],
        running=sum(each.running for each in capacities),
        waiting=sum(each.waiting for each in capacities),
        kv_tokens=sum(each.kv_tokens for each in capacities),
        kv_bytes=sum(each.kv_bytes for each in capacities),
        replicas=len(capacities),
    )
