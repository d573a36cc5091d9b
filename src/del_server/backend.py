"""Backend: what all queries of a server share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from torch import Tensor

from del_server.admission import Admission
from del_server.codec import ServedCodec
from del_server.config import Limits
from del_server.engine.base import Engine, Prefix
from del_server.metrics import Metrics
from del_server.status import UnknownCodec
from del_server.tracing import Tracing


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """What all queries share. embed_tokens: the model's own embeddings [T, D] of ids [T]. executor: for decoding."""

    version: str
    model: str
    engine: Engine
    codecs: tuple[ServedCodec, ...]
    embed_tokens: Callable[[Sequence[int]], Tensor]
    tokenizer: Tokenizer
    limits: Limits
    metrics: Metrics
    admission: Admission
    executor: Executor
    tracing: Tracing = field(default_factory=Tracing)
    _prefixes: dict[tuple[str, str], Prefix] = field(default_factory=dict, init=False)

    def codec(self, fingerprint: str) -> ServedCodec:
        """The live codec of that fingerprint (64 hex digits). Raises UnknownCodec."""
        for codec in self.codecs:
            if codec.fingerprint == fingerprint:
                return codec
        live = ", ".join(codec.fingerprint[:12] + "…" for codec in self.codecs) or "none"
        shown = f"codec {fingerprint[:12]}… is" if fingerprint else "a private segment without a codec is"
        raise UnknownCodec(f"{shown} not served here (live: {live}); fetch a live codec and encode the prompt with it")

    def prefix(self, codec: ServedCodec, task: str) -> Prefix | None:
        """The engine's handle for a codec's soft prompt, or for that of a task of it; None for one without tokens."""
        soft = codec.soft_prompt_of(task)
        if not len(soft):
            return None
        key = (codec.fingerprint, task)
        if key not in self._prefixes:
            self._prefixes[key] = self.engine.prefix(soft)
        return self._prefixes[key]
