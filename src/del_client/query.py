"""The plain data of a query: what a client asks of a server, and what a server says of itself and answers.

Knows nothing of gRPC; every value from a server is checked when it is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from del_codec.errors import InvalidValue, MismatchError
from del_codec.frame import Segment
from del_codec.padding import check_bucket
from del_codec.task import Task

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

# Of a codec from a server, which a device holds twice for a moment: 262,144 tokens of 1,000 bytes have room.
MAX_CODEC_BYTES = 1 << 28
MAX_LOGPROBS = 20
MAX_REPETITION_PENALTY = 10.0

Metadata = tuple[tuple[str, str], ...]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to generate. max_new_tokens 0: the server's default; temperature 0: greedy; top_p 1, top_k 0,
    repetition_penalty 1: off.

    logprobs: alternatives to report at each position, 0: the chosen token's probability alone, None: nothing.
    """

    max_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: int | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_new_tokens < 1 << 32:
            raise InvalidValue("max_new_tokens", self.max_new_tokens, "use a whole number of tokens from 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidValue("temperature", self.temperature, "use 0 (greedy) or a finite number above it")
        if not 0 < self.top_p <= 1:
            raise InvalidValue("top_p", self.top_p, "use a number above 0, up to 1 (off)")
        if not 0 <= self.top_k < 1 << 32:
            raise InvalidValue("top_k", self.top_k, "use 0 (off) or a whole number of tokens")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise InvalidValue("seed", self.seed, f"use a whole number from 0 to {(1 << 64) - 1}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidValue("logprobs", self.logprobs, f"use a whole number from 0 to {MAX_LOGPROBS}")
        if not 1 / MAX_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY:
            remedy = f"use {1 / MAX_REPETITION_PENALTY:g} to {MAX_REPETITION_PENALTY:g}; 1 is off"
            raise InvalidValue("repetition_penalty", self.repetition_penalty, remedy)


@dataclass(frozen=True, slots=True)
class Shaping:
    """How messages are sent, against those who watch an encrypted connection's sizes and times; 0 is off.

    tokens: the server sends so many at once. interval_ms: or it sends a message every so many milliseconds, with or
    without tokens. bucket_bytes: the messages of both sides are padded to a multiple of it.
    """

    tokens: int = 0
    interval_ms: int = 0
    bucket_bytes: int = 0

    def __post_init__(self) -> None:
        for field, value in (("shaping.tokens", self.tokens), ("shaping.interval_ms", self.interval_ms)):
            if not 0 <= value < 1 << 32:
                raise InvalidValue(field, value, "use 0 (off) or a whole number above it")
        if self.tokens and self.interval_ms:
            raise InvalidValue("shaping.tokens", self.tokens, "use tokens or interval_ms, not both")
        check_bucket(self.bucket_bytes)


PLAIN = Shaping()


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt to be answered. fingerprint: the codec's, in hex. resume: ids of an answer that was cut off."""

    fingerprint: str
    segments: tuple[Segment, ...]
    options: GenerationOptions
    resume: tuple[int, ...] = ()
    shaping: Shaping = PLAIN

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all segments together."""
        return sum(segment.tokens for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt and what may follow it, each to be judged. fingerprint: the codec's, in hex; task: "" for none.

    candidates: token ids of each.
    """

    fingerprint: str
    segments: tuple[Segment, ...]
    candidates: tuple[tuple[int, ...], ...]
    task: str = ""


@dataclass(frozen=True, slots=True)
class CodecOffer:
    """A codec that a server offers: its fingerprint in hex, the size of its device half in bytes, and its tasks."""

    fingerprint: str
    size: int
    tasks: tuple[Task, ...] = ()

    def __post_init__(self) -> None:
        if not _FINGERPRINT.fullmatch(self.fingerprint):
            raise MismatchError(f"the server's codec fingerprint is {self.fingerprint!r}: expected 32 bytes")
        if not 0 < self.size <= MAX_CODEC_BYTES:
            raise MismatchError(f"the server's codec has {self.size} bytes: a device takes 1 to {MAX_CODEC_BYTES}")


@dataclass(frozen=True, slots=True)
class Limits:
    """A server's bounds; 0 where it states none."""

    context_tokens: int
    prompt_tokens: int
    new_tokens: int
    message_bytes: int
    segments: int
    candidates: int = 0
    candidate_tokens: int = 0

    def check(self, prompt_tokens: int, segments: int, options: GenerationOptions) -> None:
        """Raise InvalidValue for what the server would refuse, so that no private bits are spent on it."""
        _check(
            ("prompt tokens", prompt_tokens, self.prompt_tokens),
            ("max_new_tokens", options.max_new_tokens, self.new_tokens),
            ("tokens of prompt and answer", prompt_tokens + options.max_new_tokens, self.context_tokens),
            ("segments", segments, self.segments),
        )

    def check_candidates(
        self, prompt_tokens: int, segments: int, candidates: Sequence[Sequence[int]], size: int
    ) -> None:
        """The same for a question of `size` bytes at most."""
        sizes = [len(ids) for ids in candidates]
        _check(
            ("prompt tokens", prompt_tokens, self.prompt_tokens),
            ("tokens of prompt and candidate", prompt_tokens + max(sizes), self.context_tokens),
            ("segments", segments, self.segments),
            ("candidates", len(sizes), self.candidates),
            ("tokens of candidates", sum(sizes), self.candidate_tokens),
            ("bytes of the message", size, self.message_bytes),
        )


def _check(*rows: tuple[str, int, int]) -> None:
    """(field, value, limit) each; a limit of 0 is none."""
    for field, value, limit in rows:
        if limit and value > limit:
            raise InvalidValue(field, value, f"this server takes at most {limit}; nothing was sent")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server serves; the first codec is its default."""

    version: str
    model: str
    engine: str
    codecs: tuple[CodecOffer, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position: of the chosen token, and of the likeliest ones, (token id, value)."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """New tokens of an answer; a character that is split over tokens comes with its last one.

    logprobs: one for each of token_ids, where they were asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class Traffic:
    """Bytes of a query's serialised messages, each with gRPC's prefix of five, counted as they are sent."""

    sent: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a query took, as the server counts it; bytes as in Finish."""

    private_tokens: int
    public_tokens: int
    new_tokens: int
    payload_bytes: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Phases in microseconds by the server's clock."""

    queue_us: int
    decode_us: int
    prefill_us: int
    generate_us: int
    first_token_us: int


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one candidate is after the prompt: natural-log probability of all of its `tokens` together."""

    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Scores:
    """All candidates' scores, in their order. wire_bytes: as in Finish."""

    scores: tuple[Score, ...]
    usage: Usage
    timings: Timings
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer.

    wire_bytes: serialised messages that this device sent, with gRPC's prefix of five bytes. interruptions: how often
    the answer broke off and was gone on with; then `usage` and `timings` are the last server's, but for new_tokens.
    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    wire_bytes: int
    interruptions: int = 0


Event = TokenDelta | Finish
