"""The worker's side: an engine that is asked, and answers, over frames. What a step yields goes out in one frame.

It ends when it is told to, or when the server is gone. Knows nothing of how models are loaded.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from del_codec.errors import DelError, EngineError, ExhaustedError, UnavailableError
from del_server.engine.base import Event, Finish, Generation, Prefix, Sampling, Scoring, Token
from del_server.engine.process.frames import Frames, Message, embeddings_of
from del_server.engine.transformers import TransformersEngine

REPORT_SECONDS = 0.25
# What a query can end with, by the name that it has on the way.
ERRORS: dict[str, type[DelError]] = {
    "engine": EngineError,
    "exhausted": ExhaustedError,
    "unavailable": UnavailableError,
}


class Worker:
    """Serves one parent. The engine has started."""

    def __init__(self, frames: Frames, engine: TransformersEngine) -> None:
        self._frames, self._engine = frames, engine
        capacity = engine.capacity
        frames.most = capacity.context_tokens * capacity.embedding_width * capacity.dtype.itemsize
        self._jobs: dict[int, Generation | Scoring] = {}
        self._prefixes: dict[int, Prefix] = {}
        self._scorings: set[asyncio.Task[None]] = set()
        self._do: dict[str, Callable[[Message, bytes], None]] = {
            "prefix": self._prefix,
            "submit": self._submit,
            "score": self._score,
            "cancel": self._cancel,
        }
        self._begin_batch()

    async def serve(self) -> None:
        """Until told to stop, or until the parent is gone."""
        capacity = self._engine.capacity
        self._report()
        self._frames.send({"say": "ready", "kv_tokens": capacity.kv_tokens, "kv_bytes": capacity.kv_bytes})
        reporting = asyncio.create_task(self._keep_reporting())
        try:
            while (received := await self._frames.receive()) is not None:
                message, payload = received
                if message["do"] == "stop":
                    return
                self._do[message["do"]](message, payload)
        finally:
            reporting.cancel()
            for scoring in self._scorings:
                scoring.cancel()

    def _prefix(self, message: Message, payload: bytes) -> None:
        capacity = self._engine.capacity
        embeddings = embeddings_of(payload, capacity.embedding_width, capacity.dtype, capacity.device)
        self._prefixes[message["prefix"]] = self._engine.prefix(embeddings)

    def _submit(self, message: Message, payload: bytes) -> None:
        number: int = message["job"]
        sampling = message["sampling"]
        try:
            generation = self._engine.submit(
                sampling=Sampling(**{**sampling, "before": tuple(sampling["before"])}), **self._asked(message, payload)
            )
        except DelError as error:
            self._take(number, error)
            return
        self._jobs[number] = generation
        generation.divert(partial(self._take, number))

    def _score(self, message: Message, payload: bytes) -> None:
        number: int = message["job"]
        try:
            scoring = self._engine.score(candidates=message["candidates"], **self._asked(message, payload))
        except DelError as error:
            self._take(number, error)
            return
        self._jobs[number] = scoring
        task = asyncio.create_task(self._judge(number, scoring))
        self._scorings.add(task)
        task.add_done_callback(self._scorings.discard)

    def _asked(self, message: Message, payload: bytes) -> dict[str, Any]:
        capacity = self._engine.capacity
        return {
            "prompt": embeddings_of(payload, capacity.embedding_width, capacity.dtype, capacity.device),
            "adapter": message["adapter"],
            "prefix": None if message["prefix"] is None else self._prefixes[message["prefix"]],
            "caller": message["caller"],
        }

    def _cancel(self, message: Message, payload: bytes) -> None:
        del payload
        if (job := self._jobs.get(message["job"])) is not None:
            job.cancel()

    async def _judge(self, number: int, scoring: Scoring) -> None:
        try:
            scored = await scoring.result()
        except asyncio.CancelledError:
            self._jobs.pop(number, None)
            self._frames.send({"say": "cancelled", "job": number})
        except DelError as error:
            self._take(number, error)
        else:
            self._jobs.pop(number, None)
            self._frames.send({"say": "scored", "job": number, "scored": asdict(scored)})

    def _begin_batch(self) -> None:
        self._tokens = array("q")
        self._logprobs: list[tuple[int, int, float, tuple[tuple[int, float], ...]]] = []
        self._ends: list[tuple[int, str, float, float]] = []
        self._errors: list[tuple[int, str, str]] = []
        self._due = False

    def _take(self, number: int, event: Event | Exception) -> None:
        """One more of the batch, which goes when the loop has made all calls of the engine's step."""
        if isinstance(event, Token):
            if event.logprobs is None:
                self._tokens.extend((number, event.token_id))
            else:
                self._logprobs.append((number, event.token_id, event.logprobs.chosen, event.logprobs.top))
        else:
            self._jobs.pop(number, None)
            if isinstance(event, Finish):
                self._ends.append((number, event.reason.value, event.queue_seconds, event.prefill_seconds))
            else:
                kind = next((name for name, kind in ERRORS.items() if isinstance(event, kind)), "engine")
                self._errors.append((number, kind, str(event)))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send_batch)

    def _send_batch(self) -> None:
        message = {"say": "events", "logprobs": self._logprobs, "ends": self._ends, "errors": self._errors}
        self._frames.send(message, self._tokens.tobytes())
        self._begin_batch()

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._report()

    def _report(self) -> None:
        load, health = self._engine.load(), self._engine.health()
        self._frames.send(
            {
                "say": "state",
                "ok": health.ok,
                "detail": health.detail,
                "fatal": health.fatal,
                "kv_tokens": load.kv_tokens,
                "kv_bytes": load.kv_bytes,
            }
        )
