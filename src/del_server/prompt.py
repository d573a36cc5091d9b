"""One prompt in segments, checked as they come, on its way to embeddings. Knows nothing of gRPC or of answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from del_codec.errors import FrameError, InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment, Segment
from del_codec.meters import BITS, EPSILON_DELTA
from del_codec.noise import NoiseSetting
from del_codec.released import largest_mu, quick_epsilon, releases_of
from del_codec.table import LatentTable
from del_server.backend import Backend
from del_server.engine.base import Prefix
from del_server.status import UnknownTask


class Prompt:
    """Segments under a codec and a task of it; `codec` is a fingerprint in hex, "" for none, `task` "" for none."""

    def __init__(self, codec: str, task: str, backend: Backend) -> None:
        self._codec = backend.codec(codec) if codec else None
        known = self._codec.tasks if self._codec else {}
        if task and task not in known:
            raise UnknownTask("task", task, f"leave it empty or use one of {list(known)}")
        self._task, self._backend = task, backend
        self._segments: list[Segment] = []
        self._released: Counter[NoiseSetting] = Counter()
        self.private_tokens = self.public_tokens = self.payload_bytes = self._bits = 0

    @property
    def tokens(self) -> int:
        """Tokens of the segments so far."""
        return self.private_tokens + self.public_tokens

    @property
    def bits(self) -> str:
        """The most bits a coordinate of the segments so far, as a metric's label; "0" where none is private."""
        return BITS[self._bits]

    @property
    def soft_tokens(self) -> int:
        """Tokens that the codec puts in front."""
        return len(self._codec.soft_prompt_of(self._task)) if self._codec and self.private_tokens else 0

    @property
    def adapter(self) -> str | None:
        """The LoRA that the model has for this prompt; none where nothing in it is private."""
        return self._codec.adapter if self._codec and self.private_tokens else None

    @property
    def prefix(self) -> Prefix | None:
        """The soft prompt, which the engine has once for all prompts; none where nothing in it is private."""
        return self._backend.prefix(self._codec, self._task) if self._codec and self.private_tokens else None

    def add(self, segment: Segment, most: int) -> None:
        """Append a segment to a prompt of at most `most` tokens. Raises InvalidValue, FrameError or UnknownCodec."""
        if len(self._segments) == self._backend.limits.segments:
            raise InvalidValue("segments", "too many", f"a prompt has at most {self._backend.limits.segments}")
        if self.tokens + segment.tokens > most:
            raise InvalidValue("prompt_tokens", most, "the segments hold more; declare what they hold together")
        if isinstance(segment, PrivateSegment):
            codec = self._codec or self._backend.codec("")
            if len(segment.payload) > segment.tokens * codec.table.spec.dim:
                raise FrameError("payload", f"{len(segment.payload)} bytes", f"too long for {segment.tokens} tokens")
            self.private_tokens += segment.tokens
            self.payload_bytes += len(segment.payload)
            self._released[segment.setting] += segment.tokens
            self._bits = max(self._bits, segment.setting.bits)
            self._backend.metrics.payload_bytes["received", BITS[segment.setting.bits]].inc(len(segment.payload))
        else:
            check_ids("token_ids", segment.token_ids, self._backend.engine.capacity.vocabulary)
            self.public_tokens += segment.tokens
        self._segments.append(segment)

    async def embed(self, resume: Sequence[int] = ()) -> tuple[Tensor, float]:
        """Embeddings [T + R, D] behind the prefix, those of ids `resume` last, and the seconds that decoding took; the
        segments are let go. Raises FrameError for a payload that can't be read."""
        loop = asyncio.get_running_loop()
        prompt, seconds = await loop.run_in_executor(self._backend.executor, self._embed, resume)
        self._segments.clear()
        return prompt, seconds

    def count(self) -> None:
        """Count a prompt that reaches the engine: its tokens, and what its noise gives away."""
        metrics = self._backend.metrics
        metrics.tokens["private"].inc(self.private_tokens)
        metrics.tokens["public"].inc(self.public_tokens)
        if self._codec is None or not self._released:
            return
        table = self._codec.table
        mu = largest_mu(table, self._released)
        metrics.private(self._codec.fingerprint, self.private_tokens, table.spec.embedding_width, mu)
        # Not here: a bound that isn't known yet takes as long as many a decode step.
        asyncio.get_running_loop().run_in_executor(self._backend.executor, self._observe_epsilon, table)

    def _observe_epsilon(self, table: LatentTable) -> None:
        epsilon = quick_epsilon(releases_of(table, self._released), EPSILON_DELTA)
        self._backend.metrics.epsilon.observe(epsilon)

    def _embed(self, resume: Sequence[int]) -> tuple[Tensor, float]:
        started = time.perf_counter()
        if self._codec is not None and self.private_tokens:
            prompt = self._codec.decoder(self._segments)
        else:
            ids = [token for s in self._segments if isinstance(s, PublicSegment) for token in s.token_ids]
            prompt = self._backend.embed_tokens(ids)
        if resume:
            prompt = torch.cat([prompt, self._backend.embed_tokens(resume)])
        return prompt, time.perf_counter() - started


def check_ids(field: str, ids: Sequence[int], vocabulary: int) -> None:
    """Raise InvalidValue for an id that the model doesn't know; ids are not negative, since the wire's are not."""
    largest = max(ids, default=0)
    if largest >= vocabulary:
        raise InvalidValue(field, largest, f"the model knows ids 0 to {vocabulary - 1}")
