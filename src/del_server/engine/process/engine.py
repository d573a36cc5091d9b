"""An engine whose model runs in a worker process, which is started again when it dies or hangs.

What a dead worker had under way ends with UnavailableError; nothing is taken until a new one has made a decode step.
Prefixes are kept here and given to each new worker. Knows nothing of models, devices or other workers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from del_codec.errors import DelError, EngineError, ExhaustedError, InvalidValue, UnavailableError, first_line
from del_server.engine.base import (
    Capacity,
    Engine,
    Finish,
    Generation,
    Health,
    Load,
    Logprobs,
    Prefix,
    Reason,
    Sampling,
    Scored,
    Scoring,
    Token,
    check_candidates,
    check_prompt,
)
from del_server.engine.process.frames import Frames, Message, bytes_of
from del_server.engine.process.jobs import Answer, Job, Judged
from del_server.engine.process.launch import Launch, Launched
from del_server.engine.process.worker import ERRORS

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
# What comes of a message that has not what it should.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Patience:
    """start_seconds: for a worker to load its model and make a step. silent_seconds: without a report a worker is not
    healthy. dead_seconds: one that is not healthy for longer is killed. first_wait, longest_wait: seconds before a new
    one is started, twice as many after each that did not last steady_seconds. most_failures: in a row, after which the
    engine counts as dead, though it goes on trying. stop_seconds: for a worker to leave when told to, and for one that
    was killed to be gone."""

    start_seconds: float = 1800.0
    silent_seconds: float = 5.0
    dead_seconds: float = 60.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    steady_seconds: float = 60.0
    most_failures: int = 5
    stop_seconds: float = 10.0


class ProcessEngine(Engine):
    """capacity: what a worker takes, its memory for keys and values to be told by the worker. order: the first frame,
    which says what to load. adapters: names of the LoRAs in it."""

    name = "transformers"

    def __init__(
        self, capacity: Capacity, launch: Launch, order: Mapping[str, Any], patience: Patience | None = None
    ) -> None:
        self.capacity = capacity
        self._launch, self._order, self._patience = launch, order, patience or Patience()
        self._numbers = itertools.count()
        self._jobs: dict[int, Job] = {}
        self._prefixes: dict[Prefix, int] = {}
        self._worker: Launched | None = None
        # None while no worker answers.
        self._frames: Frames | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._failures = 0
        self._why = "the worker has not started"
        self._health, self._heard_at = Health(False, self._why), time.monotonic()
        self._kv_tokens = self._kv_bytes = 0

    @property
    def pid(self) -> int | None:
        """Of the worker, while there is one."""
        return None if self._worker is None else self._worker.pid

    async def start(self) -> None:
        """See Engine."""
        await self._begin()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """See Engine."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._frames is not None:
            self._frames.send({"do": "stop"})
        self._lose("the engine has stopped; send the same bytes to another server")
        await self._bury(self._patience.stop_seconds)

    def prefix(self, embeddings: Tensor) -> Prefix:
        """See Engine."""
        handle = super().prefix(embeddings)
        self._prefixes[handle] = next(self._numbers)
        if self._frames is not None:
            self._give(self._frames, handle)
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
        number, frames = self._admitted(prompt, adapter, prefix)
        answer = Answer(lambda: self._cancel(number))
        self._jobs[number] = answer
        order = {"do": "submit", "sampling": asdict(sampling), **self._standing(number, adapter, prefix, caller)}
        frames.send(order, bytes_of(prompt))
        return answer

    def score(
        self,
        prompt: Tensor,
        candidates: Sequence[Sequence[int]],
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Scoring:
        """See Engine."""
        check_prompt(prompt, self.capacity, prefix.tokens if prefix else 0)
        check_candidates(candidates, len(prompt) + (prefix.tokens if prefix else 0), self.capacity)
        number, frames = self._admitted(prompt, adapter, prefix)
        scoring = Judged(lambda: self._cancel(number))
        self._jobs[number] = scoring
        ids = [list(candidate) for candidate in candidates]
        frames.send(
            {"do": "score", "candidates": ids, **self._standing(number, adapter, prefix, caller)}, bytes_of(prompt)
        )
        return scoring

    def load(self) -> Load:
        """See Engine. The worker may have to hold back more of them for want of memory than wait by this count."""
        jobs = len(self._jobs)
        running = min(jobs, self.capacity.running)
        return Load(running, jobs - running, self._kv_tokens, self._kv_bytes)

    def health(self) -> Health:
        """See Engine."""
        if self._stopping:
            return Health(False, self._why, fatal=True)
        if self._frames is None:
            fatal = self._failures >= self._patience.most_failures
            return Health(False, f"{self._why}; a new worker is on its way", fatal)
        silent = time.monotonic() - self._heard_at
        if silent > self._patience.silent_seconds:
            return Health(False, f"the worker's latest report came {silent:.0f} s ago")
        return replace(self._health, fatal=False)

    def _admitted(self, prompt: Tensor, adapter: str | None, prefix: Prefix | None) -> tuple[int, Frames]:
        """A number for a new job, and where to send it. Raises what submit raises."""
        check_prompt(prompt, self.capacity, prefix.tokens if prefix else 0)
        if adapter is not None and adapter not in self._order["adapters"]:
            raise InvalidValue("adapter", adapter, f"use one of {list(self._order['adapters'])}")
        if self._frames is None:
            raise UnavailableError(f"{self._why}; send the same bytes again", RETRY_SECONDS)
        if len(self._jobs) >= self.capacity.running + self.capacity.waiting:
            raise ExhaustedError(f"the queue of {self.capacity.waiting} prompts is full; try again later")
        return next(self._numbers), self._frames

    def _standing(self, number: int, adapter: str | None, prefix: Prefix | None, caller: str) -> Message:
        handle = None if prefix is None else self._prefixes[prefix]
        return {"job": number, "adapter": adapter, "prefix": handle, "caller": caller}

    def _give(self, frames: Frames, prefix: Prefix) -> None:
        frames.send({"do": "prefix", "prefix": self._prefixes[prefix]}, bytes_of(prefix.embeddings))

    def _cancel(self, number: int) -> None:
        if number in self._jobs and self._frames is not None:
            self._frames.send({"do": "cancel", "job": number})

    async def _begin(self) -> None:
        """A worker that has made a decode step. Raises EngineError if there is none."""
        worker = self._worker = await self._launch()
        frames = await Frames.over(worker.end)
        try:
            frames.send(self._order)
            async with asyncio.timeout(self._patience.start_seconds):
                ready = await self._ready(frames)
            self.capacity = replace(self.capacity, kv_tokens=ready["kv_tokens"], kv_bytes=ready["kv_bytes"])
        except BaseException as error:
            frames.close()
            await self._bury(0)
            if isinstance(error, TimeoutError):
                raise EngineError(f"a worker did not start in {self._patience.start_seconds:g} s") from None
            if isinstance(error, _UNREADABLE):
                raise EngineError(f"a worker began with what can't be read: {first_line(error)}") from error
            raise
        for prefix in self._prefixes:
            self._give(frames, prefix)
        self._frames = frames

    async def _ready(self, frames: Frames) -> Message:
        """What a new worker says when it has made a decode step. Raises EngineError if it doesn't come to that."""
        while (received := await frames.receive()) is not None:
            message, _ = received
            if message["say"] == "state":
                self._note(message)
            elif message["say"] == "failed":
                raise EngineError(f"a worker can't start: {message['why']}")
            else:
                return message
        raise EngineError("a worker died before it could answer; its own messages say more")

    async def _keep(self) -> None:
        """Read what workers say, one after another, until cancelled."""
        while True:
            begun = time.monotonic()
            watch = asyncio.create_task(self._watch())
            try:
                why = await self._listen()
            finally:
                watch.cancel()
            if time.monotonic() - begun > self._patience.steady_seconds:
                self._failures = 0
            logger.error("the worker of process %s is gone: %s", self.pid, why)
            self._lose(why)
            await self._bury(0)
            await self._begin_again()

    async def _begin_again(self) -> None:
        """Until a new worker answers, with ever longer pauses."""
        while True:
            wait = self._patience.first_wait * 2**self._failures
            await asyncio.sleep(min(wait, self._patience.longest_wait))
            self._failures += 1
            try:
                await self._begin()
            except Exception as error:
                self._why = first_line(error)
                logger.error("no new worker: %s", self._why, exc_info=not isinstance(error, DelError | OSError))
            else:
                logger.warning("a new worker answers, process %s", self.pid)
                return

    async def _listen(self) -> str:
        """Until the worker's end; why it came."""
        frames = self._frames
        try:
            while frames is not None and (received := await frames.receive()) is not None:
                self._hear(*received)
        except Exception as error:  # whatever it is, nobody else reads on
            logger.exception("a worker's frame can't be read")
            return f"the worker said what can't be read: {first_line(error)}"
        return "the worker died"

    async def _watch(self) -> None:
        """Kill a worker that is not healthy for too long: only a new process gets back a GPU that has failed."""
        healthy_at = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self._patience.dead_seconds / 4))
            if self.health().ok:
                healthy_at = time.monotonic()
            elif time.monotonic() - healthy_at > self._patience.dead_seconds and self._worker is not None:
                logger.error("the worker of process %s is killed: %s", self.pid, self.health().detail)
                self._worker.kill()
                if self._frames is not None:
                    self._frames.close()  # one that a driver holds fast may not go, nor its end of the socket

    def _lose(self, why: str) -> None:
        """No worker answers: what was under way ends."""
        self._why = why
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.fail(UnavailableError(f"{why}; send the same bytes again", RETRY_SECONDS))
        self._kv_tokens = self._kv_bytes = 0

    async def _bury(self, patience: float) -> None:
        """Wait for the worker's end; make it come once patience is at its end. One that stays all the same is left."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            await asyncio.wait_for(worker.ended(), patience)
        except TimeoutError:
            worker.kill()
            try:
                await asyncio.wait_for(worker.ended(), self._patience.stop_seconds)
            except TimeoutError:
                logger.error("process %s was killed, and has not gone", worker.pid)
        except BaseException:
            worker.kill()
            raise

    def _hear(self, message: Message, payload: bytes) -> None:
        match message["say"]:
            case "events":
                self._pass_on(message, payload)
            case "state":
                self._note(message)
            case "scored":
                values = message["scored"]
                scored = Scored(**{**values, "logprobs": tuple(map(tuple, values["logprobs"]))})
                scoring = self._jobs.pop(message["job"], None)
                if isinstance(scoring, Judged):
                    scoring.end(scored)
            case "cancelled":
                scoring = self._jobs.pop(message["job"], None)
                if isinstance(scoring, Judged):
                    scoring.drop()
            case other:
                raise EngineError(f"no message {other!r} is known")

    def _note(self, message: Message) -> None:
        self._heard_at = time.monotonic()
        self._health = Health(message["ok"], message["detail"], message["fatal"])
        self._kv_tokens, self._kv_bytes = message["kv_tokens"], message["kv_bytes"]
        if message["fatal"] and self._worker is not None:
            self._worker.kill()

    def _pass_on(self, message: Message, payload: bytes) -> None:
        """What a step of the worker yielded, to its readers. A job is let go of last, so that no message loses it."""
        pairs = array("q")
        pairs.frombytes(payload)
        flat = iter(pairs)
        for number, token in zip(flat, flat, strict=True):
            self._put(number, Token(token))
        for number, token, chosen, top in message["logprobs"]:
            self._put(number, Token(token, Logprobs(chosen, tuple(map(tuple, top)))))
        for number, reason, queued, prefill in message["ends"]:
            finish = Finish(Reason(reason), queued, prefill)
            job = self._jobs.pop(number, None)
            if isinstance(job, Answer):
                job.end(finish)
        for number, kind, text in message["errors"]:
            error = ERRORS[kind](text)
            if (failed := self._jobs.pop(number, None)) is not None:
                failed.fail(error)

    def _put(self, number: int, token: Token) -> None:
        answer = self._jobs.get(number)
        if isinstance(answer, Answer) and (crowded := answer.put(token)) is not None:
            self._cancel(number)
            del self._jobs[number]
            answer.fail(crowded)
