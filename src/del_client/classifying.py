"""Questions about private texts, answered by the likeliest label: what is asked, and what came of it.

The words around the texts and the labels are public; they come from the caller or from a task of the server's, which
decides nothing that privacy rests on. Knows nothing of the wire, of ledgers or of terminals.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from del_client.cutting import Span
from del_client.prepared import Prepared
from del_client.query import CodecOffer, Scores
from del_client.report import PrivacyReport
from del_codec.bitpack import packed_size
from del_codec.errors import InvalidValue, TimedOut
from del_codec.noise import NoiseSetting
from del_codec.task import Task

# Of one text, and of two.
TEMPLATES = ("Text: {}\nCategory:", "First: {}\nSecond: {}\nAnswer:")
_OWN = "own"
# Of a message: what stands around one piece of it, and one token id, at most.
_FRAME_BYTES, _ID_BYTES = 128, 5


@dataclass(frozen=True, slots=True)
class Label:
    """An answer: probability among all labels, natural-log probability after the prompt, and its tokens."""

    text: str
    probability: float
    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Classification:
    """labels: the likeliest first. scores: as the server gave them. privacy: None where nothing was private."""

    labels: tuple[Label, ...]
    scores: Scores
    prepared: Prepared
    privacy: PrivacyReport | None
    total_ms: float

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.labels[0].text


def choose_task(
    offer: CodecOffer, name: str, fields: int, template: str | None, labels: Sequence[str] | None
) -> tuple[Task, str]:
    """The task to ask with, and its name on the server ("" for none).

    Raises InvalidValue for a task that the server doesn't have, or labels missing without one.
    """
    known = {task.name: task for task in offer.tasks}
    if name:
        if name not in known:
            raise InvalidValue("task", name, f"this server's codec has {', '.join(known) or 'none'}")
        task = known[name]
        return replace(task, template=template or task.template, labels=tuple(labels or task.labels)), name
    if not labels:
        raise InvalidValue("labels", [], f"name two at least, or a task ({', '.join(known) or 'this server has none'})")
    if not 1 <= fields <= len(TEMPLATES):
        raise InvalidValue("fields", fields, f"ask about 1 to {len(TEMPLATES)} texts")
    return Task(_OWN, template or TEMPLATES[fields - 1], tuple(labels)), ""


def rank(task: Task, scores: Scores) -> tuple[Label, ...]:
    """The labels of a task by their scores, the likeliest first."""
    best = max(score.logprob for score in scores.scores)
    weights = [math.exp(score.logprob - best) for score in scores.scores]
    labels = [
        Label(text, weight / sum(weights), score.logprob, score.tokens)
        for text, weight, score in zip(task.labels, weights, scores.scores, strict=True)
    ]
    return tuple(sorted(labels, key=lambda label: -label.logprob))


def most_bytes(pieces: Sequence[Span], setting: NoiseSetting, dim: int, candidates: Sequence[Sequence[int]]) -> int:
    """A bound on the bytes of a question's message, known before its bits are drawn."""
    size = _FRAME_BYTES + sum(_FRAME_BYTES + _ID_BYTES * len(ids) for ids in candidates)
    for piece in pieces:
        tokens = len(piece.token_ids)
        bits = piece.noise(setting).bits
        size += _FRAME_BYTES + (packed_size(tokens * dim, bits) if piece.private else _ID_BYTES * tokens)
    return size


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Cancel what takes longer; None: no bound. Raises TimedOut."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise TimedOut(f"the answer took longer than {seconds:g} s: it was cancelled") from None
        raise
