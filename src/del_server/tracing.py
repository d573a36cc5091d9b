"""Tracing: who is told of calls and queries as they begin and end. Nobody is; opentelemetry_tracing.py makes spans.

What is told is numbers and names of methods, never a prompt's or an answer's text. Knows nothing of gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from del_server.prompt import Prompt
    from del_server.query import Timings


class Asked(Protocol):
    """What a query or a question knows of itself."""

    @property
    def prompt(self) -> Prompt:
        """Its prompt."""

    @property
    def timings(self) -> Timings:
        """Its phases so far."""

    @property
    def new_tokens(self) -> int:
        """Tokens generated so far."""


class Tracing:
    """Tells nobody."""

    def call(self, method: str, metadata: Mapping[str, str]) -> AbstractContextManager[None]:  # noqa: ARG002
        """The time of a call of "/service/method", whose metadata may say what it is part of."""
        return nullcontext()

    def query(self, asked: Asked) -> AbstractContextManager[None]:  # noqa: ARG002
        """The time from the end of a prompt to the end of what came of it, within its call."""
        return nullcontext()

    def close(self) -> None:
        """Let go of what was not told yet."""
