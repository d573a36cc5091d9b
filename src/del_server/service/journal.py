"""The journal of one call: a line for each of its queries, by caller, stream and query id, without what was said."""

from __future__ import annotations

import logging
import secrets
from dataclasses import asdict

from del_server.logs import fields
from del_server.query import Query
from del_server.score import Question
from del_server.status import Problem

# Of a call; more say nothing new, and a client may make any number of them.
MOST_REFUSALS = 100
logger = logging.getLogger("del_server.queries")


class Journal:
    """What became of a call's queries."""

    def __init__(self, caller: str) -> None:
        self._who = {"caller": caller, "stream": secrets.token_hex(6)}
        self._refusals = 0

    def ended(self, query_id: int, query: Query, outcome: str) -> None:
        """An answer that ended, however it did."""
        if logger.isEnabledFor(logging.INFO):
            sizes = {"new_tokens": query.new_tokens, "sent_bytes": query.sent_bytes}
            self._write(query_id, query, query.received_bytes, outcome, sizes)

    def scored(self, question: Question, received_bytes: int) -> None:
        """A question that was answered."""
        if logger.isEnabledFor(logging.INFO):
            self._write(0, question, received_bytes, "scored", {})

    def refused(self, query_id: int, problem: Problem) -> None:
        """What a client was told in place of an answer; the reason, never the words."""
        self._refusals += 1
        if self._refusals <= MOST_REFUSALS:
            extra = fields(**self._who, query=query_id, reason=problem.reason, field=problem.field)
            logger.info("query refused", extra=extra)

    def _write(
        self, query_id: int, asked: Query | Question, received_bytes: int, outcome: str, sizes: dict[str, int]
    ) -> None:
        seconds = {f"{phase}_seconds": round(value, 6) for phase, value in asdict(asked.timings).items()}
        prompt = asked.prompt
        tokens = {"private_tokens": prompt.private_tokens, "public_tokens": prompt.public_tokens}
        extra = fields(
            **self._who,
            query=query_id,
            outcome=outcome,
            **tokens,
            payload_bytes=prompt.payload_bytes,
            received_bytes=received_bytes,
            **sizes,
            **seconds,
        )
        logger.info("query ended", extra=extra)
