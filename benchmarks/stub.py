"""StubEngine: an engine without a model, so that gRPC, codec and clients can be loaded beyond what a model would bear.

Run as a program it is `del-server serve` with that engine: `python -m benchmarks.stub --step-ms 0`, same ready line.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from del_codec.errors import UnavailableError
from del_server.admission import Admission
from del_server.app import leave_alone, load, running
from del_server.backend import Backend
from del_server.config import ServeConfig
from del_server.engine.base import (
    Capacity,
    Engine,
    Event,
    Finish,
    Generation,
    Health,
    Load,
    Prefix,
    Reason,
    Sampling,
    Scoring,
    Token,
    check_prompt,
)

STREAMS = 1024


def stub_tokens(seed: int, prompt_tokens: int, count: int, vocabulary: int) -> list[int]:
    """What a query is answered: ids that count up from one that its seed and its prompt's length say."""
    first = seed * 7919 + prompt_tokens
    return [(first + at) % vocabulary for at in range(count)]


class StubGeneration(Generation):
    """Tokens at the reader's pace, one each `step_seconds` at most."""

    def __init__(self, engine: StubEngine, ids: list[int]) -> None:
        self._engine, self._ids = engine, ids
        self._given = 0
        self._cancelled = False

    @property
    def ready(self) -> bool:
        """See Generation."""
        waits = self._engine.step_seconds or self._engine.stopped or self._cancelled
        return not waits and self._given < len(self._ids)

    def cancel(self) -> None:
        """See Generation."""
        self._cancelled = True

    async def __aiter__(self) -> AsyncIterator[Event]:
        engine = self._engine
        engine.running += 1
        try:
            for token_id in self._ids:
                if engine.step_seconds:
                    await asyncio.sleep(engine.step_seconds)
                if engine.stopped:
                    raise UnavailableError("the engine has stopped")
                if self._cancelled:
                    break
                self._given += 1
                yield Token(token_id)
            yield Finish(Reason.CANCELLED if self._cancelled else Reason.LENGTH, 0.0, 0.0)
        finally:
            engine.running -= 1


class StubEngine(Engine):
    """See the module's docstring. step_seconds: between two tokens of an answer; 0 for as fast as they are read."""

    name = "stub"

    def __init__(self, capacity: Capacity, step_seconds: float = 0.0) -> None:
        self.capacity = replace(capacity, running=STREAMS)
        self.step_seconds = step_seconds
        self.running = 0
        self.stopped = False

    async def start(self) -> None:
        """There is nothing to warm up."""

    async def stop(self) -> None:
        """See Engine."""
        self.stopped = True

    def submit(
        self,
        prompt: Tensor,
        sampling: Sampling,
        adapter: str | None = None,  # noqa: ARG002
        prefix: Prefix | None = None,
        caller: str = "",  # noqa: ARG002
    ) -> Generation:
        """See Engine; an answer has max_tokens tokens, or what the context leaves."""
        before = prefix.tokens if prefix else 0
        check_prompt(prompt, self.capacity, before)
        room = self.capacity.context_tokens - before - len(prompt)
        count = min(sampling.max_tokens - sampling.position, room)
        return StubGeneration(self, stub_tokens(sampling.seed, len(prompt), count, self.capacity.vocabulary))

    def score(
        self,
        prompt: Tensor,  # noqa: ARG002
        candidates: Sequence[Sequence[int]],  # noqa: ARG002
        adapter: str | None = None,  # noqa: ARG002
        prefix: Prefix | None = None,  # noqa: ARG002
        caller: str = "",  # noqa: ARG002
    ) -> Scoring:
        """A stub has no opinion."""
        raise UnavailableError("the stub engine scores nothing")

    def load(self) -> Load:
        """See Engine."""
        return Load(self.running, 0, 0)

    def health(self) -> Health:
        """See Engine."""
        return Health(not self.stopped, "a stub")


def stubbed(backend: Backend, step_seconds: float = 0.0) -> Backend:
    """The same server with a stub for an engine, and a place for each of STREAMS queries."""
    engine = StubEngine(backend.engine.capacity, step_seconds)
    return replace(backend, engine=engine, admission=Admission(STREAMS))


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stub", description=__doc__)
    parser.add_argument("--step-ms", type=float, default=0.0, metavar="MS", help="between two tokens (default: 0)")
    parser.add_argument("--host", default="127.0.0.1", help="plain text, to whoever reaches it (default: %(default)s)")
    arguments = parser.parse_args()
    config = ServeConfig(host=arguments.host, port=0, insecure=True)
    backend = stubbed(load(config), arguments.step_ms / 1000)
    leave_alone()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(backend, config))


async def _serve(backend: Backend, config: ServeConfig) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with running(backend, config) as port:
        print(f"stub ready on {config.host}:{port}", flush=True)
        await stopping.wait()


if __name__ == "__main__":
    main()
