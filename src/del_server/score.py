"""One question: a whole prompt and candidates for what follows it, each to be judged. Knows nothing of gRPC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from del_codec.errors import InvalidValue
from del_codec.frame import Segment
from del_server.backend import Backend
from del_server.engine.base import Scored, check_candidates
from del_server.prompt import Prompt
from del_server.query import Timings


@dataclass(frozen=True, slots=True)
class Asked:
    """codec: fingerprint in hex, "" for none; task: "" for none; candidates: ids of each."""

    codec: str
    task: str
    segments: Sequence[Segment]
    candidates: Sequence[Sequence[int]]


class Question:
    """caller: whose it is. tokens: of prompt and candidates. new_tokens: none is generated.

    Checked when it is made: raises what a query's prompt raises, and InvalidValue for its candidates.
    """

    new_tokens = 0

    def __init__(self, asked: Asked, backend: Backend, caller: str) -> None:
        limits = backend.limits
        _check_size(asked, limits.candidates, limits.candidate_tokens)
        held = sum(segment.tokens for segment in asked.segments)
        if not 1 <= held <= limits.prompt_tokens:
            raise InvalidValue("segments", f"{held} tokens", f"send 1 to {limits.prompt_tokens} tokens")
        self.prompt = Prompt(asked.codec, asked.task, backend)
        for segment in asked.segments:
            self.prompt.add(segment, held)
        check_candidates(asked.candidates, self.prompt.soft_tokens + held, backend.engine.capacity)
        self._candidates, self._backend = asked.candidates, backend
        self.caller, self.tokens = caller, held + sum(map(len, asked.candidates))
        self.timings = Timings()

    async def run(self) -> Scored:
        """Decode the prompt and judge the candidates; when the task is cancelled, the engine's slot is freed.

        Raises ExhaustedError if the server is full, FrameError for a payload that can't be read, EngineError if the
        model failed.
        """
        asked = time.perf_counter()
        metrics, timings = self._backend.metrics, self.timings
        with self._backend.admission.ask(self.caller) as place:
            await place.slot()
            prompt, timings.decode = await self.prompt.embed()
            waited = time.perf_counter() - asked - timings.decode
            self.prompt.count()
            scoring = self._backend.engine.score(
                prompt, self._candidates, self.prompt.adapter, self.prompt.prefix, self.caller
            )
            del prompt
            try:
                scored = await scoring.result()
            finally:
                scoring.cancel()
        metrics.tokens["candidate"].inc(sum(map(len, self._candidates)))
        timings.queue = waited + scored.queue_seconds
        timings.prefill, timings.generate = scored.prefill_seconds, scored.score_seconds
        metrics.answered(asdict(timings), time.perf_counter() - asked)
        return scored


def _check_size(asked: Asked, candidates: int, tokens: int) -> None:
    count, total = len(asked.candidates), sum(map(len, asked.candidates))
    if not 1 <= count <= candidates:
        raise InvalidValue("candidates", count, f"give 1 to {candidates}")
    if total > tokens:
        raise InvalidValue("candidates", f"{total} ids", f"all together have at most {tokens}")
