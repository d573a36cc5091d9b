"""What every engine offers: prompt embeddings in; token events out, or the likelihood of given continuations.

Engines know nothing of gRPC, codecs or text. All methods but load and health, which any thread may
call, belong to one event loop; the model's steps run outside it.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from del_codec.errors import InvalidValue

MAX_LOGPROBS = 20
MAX_TEMPERATURE = 100.0
MAX_REPETITION_PENALTY = 10.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the tokens of one answer.

    max_tokens: of the whole answer, those that came before included. temperature 0 is greedy; top_p 1 and top_k 0 are
    off. logprobs: alternatives to report at each position, None for no log-probabilities. position: tokens of the
    answer that came before (a resumed one draws what an uninterrupted one would have drawn). repetition_penalty: how
    much smaller the logits of the answer's own earlier tokens become, 1 is off. before: those of a resumed answer.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    logprobs: int | None = None
    ignore_eos: bool = False
    position: int = 0
    repetition_penalty: float = 1.0
    before: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InvalidValue("max_new_tokens", self.max_tokens, "ask for at least one token")
        if not 0 <= self.temperature <= MAX_TEMPERATURE:  # false for NaN too
            raise InvalidValue("temperature", self.temperature, f"use 0 (greedy) to {MAX_TEMPERATURE:g}")
        if not 0 < self.top_p <= 1:
            raise InvalidValue("top_p", self.top_p, "use a share above 0 and up to 1 (off)")
        if self.top_k < 0:
            raise InvalidValue("top_k", self.top_k, "use 0 (off) or the number of tokens to choose from")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidValue("logprobs", self.logprobs, f"use 0 to {MAX_LOGPROBS} alternatives")
        if not 1 / MAX_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY:
            remedy = f"use {1 / MAX_REPETITION_PENALTY:g} to {MAX_REPETITION_PENALTY:g}; 1 is off"
            raise InvalidValue("repetition_penalty", self.repetition_penalty, remedy)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural-log probabilities at one position under the model itself, before temperature, top-p and top-k.

    chosen: of the token that was taken. top: (token id, log-probability) of the likeliest, best first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer; an end-of-sequence token comes too, as the last."""

    token_id: int
    logprobs: Logprobs | None = None


class Reason(enum.Enum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event: why, and how many seconds the prompt waited for a slot and took to prefill."""

    reason: Reason
    queue_seconds: float
    prefill_seconds: float


Event = Token | Finish


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an engine takes: prompts [T, embedding_width] of `dtype` with T below context_tokens, on `device`.

    context_tokens: prompt and answer together. eos_token_ids: tokens that end an answer. running, waiting: most
    sequences in progress, and in the queue behind them. kv_tokens: most tokens of keys and values that all of these may
    take together, kv_token_bytes each. kv_bytes: most memory for keys and values, known beginnings and copies under way
    included; 0 where the engine does not say. replicas: of the model, which share the rest.
    """

    context_tokens: int
    embedding_width: int
    vocabulary: int
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    running: int
    waiting: int
    kv_tokens: int
    kv_token_bytes: int
    kv_bytes: int = 0
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """Sequences in progress and in the queue, now; kv_tokens: of keys and values that those in progress may take.

    kv_bytes: memory that keys and values have, known beginnings included.
    """

    running: int
    waiting: int
    kv_tokens: int
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """What prompts begin with: embeddings [P, D], whose keys and values an engine computes once."""

    embeddings: Tensor

    @property
    def tokens(self) -> int:
        """P."""
        return len(self.embeddings)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine generates: `ok` means that the model's latest step succeeded, and lately.

    fatal: it never will again, and the process had better be started anew. parts: of each replica, where there are any.
    """

    ok: bool
    detail: str
    fatal: bool = False
    parts: tuple[Health, ...] = ()

    @property
    def answering(self) -> int:
        """How many replicas generate; of an engine without, 1 or 0."""
        return sum(part.ok for part in self.parts) if self.parts else int(self.ok)


class Generation(ABC):
    """One answer in progress: iterate for its events, the last of which is a Finish.

    Iteration raises EngineError if the model failed on this prompt, UnavailableError if the engine went away.
    """

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events, once."""

    @property
    def ready(self) -> bool:
        """Whether the next event is a token that is there already. An engine that can't say it never does."""
        return False

    @abstractmethod
    def cancel(self) -> None:
        """Free the slot within one step; the iteration ends with Reason.CANCELLED. No effect on an ended one."""


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely each candidate is after a prompt, and what it took.

    logprobs: natural-log probability of each token of each candidate, given the prompt and the tokens before it, under
    the model itself. Seconds in the queue, of the prompt's prefill, and of the candidates after it.
    """

    logprobs: tuple[tuple[float, ...], ...]
    queue_seconds: float
    prefill_seconds: float
    score_seconds: float


class Scoring(ABC):
    """The scoring of one prompt's candidates in progress."""

    @abstractmethod
    async def result(self) -> Scored:
        """Wait for it. Raises EngineError if the model failed, UnavailableError if the engine went away."""

    @abstractmethod
    def cancel(self) -> None:
        """Free the slot within one step; whoever waits for the result is cancelled. No effect on an ended one."""


class Engine(ABC):
    """A language model that goes on from prompt embeddings, several prompts at once."""

    name: str
    capacity: Capacity

    @abstractmethod
    async def start(self) -> None:
        """Return once a warm-up step has succeeded; raises EngineError if it fails."""

    @abstractmethod
    async def stop(self) -> None:
        """End all generations with UnavailableError and free the model's worker."""

    def prefix(self, embeddings: Tensor) -> Prefix:
        """A handle for what prompts begin with, [P, D]: keep it and pass it with each of them.

        Raises InvalidValue for embeddings that the model must not see.
        """
        check_prompt(embeddings, self.capacity)
        return Prefix(embeddings)

    @abstractmethod
    def submit(
        self,
        prompt: Tensor,
        sampling: Sampling,
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Generation:
        """Queue a prompt [T, D], which stands behind a prefix if there is one; adapter: the name of a LoRA that the
        model has for this prompt alone. caller: whose it is; what an engine keeps of a prompt is for its caller alone.

        Raises InvalidValue for a prompt that the model must not see, ExhaustedError if the queue is full,
        UnavailableError if the engine has stopped.
        """

    @abstractmethod
    def score(
        self,
        prompt: Tensor,
        candidates: Sequence[Sequence[int]],
        adapter: str | None = None,
        prefix: Prefix | None = None,
        caller: str = "",
    ) -> Scoring:
        """Queue a prompt [T, D] and continuations of it, ids each, to be judged one apart from the other; adapter,
        prefix and caller as in submit.

        Raises what submit does, and InvalidValue for candidates that the model can't take.
        """

    @abstractmethod
    def load(self) -> Load:
        """How busy the engine is."""

    @abstractmethod
    def health(self) -> Health:
        """Whether the engine generates."""


def check_prompt(prompt: Tensor, capacity: Capacity, before: int = 0) -> None:
    """Raise InvalidValue unless the model can take `prompt` behind `before` tokens: a wrong width or one NaN can spoil
    others' answers."""
    if prompt.dtype != capacity.dtype:
        raise InvalidValue("prompt", prompt.dtype, f"embeddings of {capacity.dtype}")
    if prompt.ndim != 2 or prompt.shape[1] != capacity.embedding_width:
        raise InvalidValue("prompt", list(prompt.shape), f"shape [T, {capacity.embedding_width}]")
    most = capacity.context_tokens - before - 1
    if not 1 <= len(prompt) <= most:
        raise InvalidValue("prompt", f"{len(prompt)} tokens", f"send 1 to {most}")
    # One operation, for others' threads take turns with each; a sum this wide is finite where all of it is.
    if not math.isfinite(float(prompt.sum(dtype=torch.float64))):
        raise InvalidValue("prompt", "not finite", "every coordinate must be a finite number")


def check_candidates(candidates: Sequence[Sequence[int]], prompt_tokens: int, capacity: Capacity) -> None:
    """Raise InvalidValue unless each candidate has known ids and fits the context after the prompt."""
    if not candidates:
        raise InvalidValue("candidates", "none", "give at least one")
    room = capacity.context_tokens - prompt_tokens
    for index, ids in enumerate(candidates):
        field = f"candidates[{index}].token_ids"
        if not 1 <= len(ids) <= room:
            raise InvalidValue(field, f"{len(ids)} ids", f"use 1 to {room}, what the context leaves after the prompt")
        if min(ids) < 0 or max(ids) >= capacity.vocabulary:
            unknown = next(token for token in ids if not 0 <= token < capacity.vocabulary)
            raise InvalidValue(field, unknown, f"the model knows ids 0 to {capacity.vocabulary - 1}")
