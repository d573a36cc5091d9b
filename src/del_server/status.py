"""The one mapping from errors to what a client is told: a google.rpc code, a stable reason, field and retry time.

Knows nothing of gRPC's types; service.py puts a Problem into a QueryError or a status.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from del_codec.errors import (
    AccessDenied,
    DelError,
    EngineError,
    ExhaustedError,
    FrameError,
    InvalidValue,
    MismatchError,
    UnavailableError,
)

_RETRY_SECONDS = 1.0
# Another stream, or another server, may well be there already.
_ELSEWHERE_SECONDS = 0.1


class Code(enum.IntEnum):
    """The google.rpc codes in use."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class UnknownCodec(MismatchError):
    """A codec that this server does not serve."""


class UnknownTask(InvalidValue):
    """A task that the codec does not have."""


class UnknownQuery(InvalidValue):
    """An event for a query that is not open."""


class QueryIdInUse(InvalidValue):
    """A query opened under the id of one that is not finished."""


class TooManyQueries(ExhaustedError):
    """A stream with too many unfinished queries."""


class QuotaExceeded(ExhaustedError):
    """A caller who has used up what its quota allows."""


class Draining(UnavailableError):
    """A server that shuts down."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client is told of an error. field: "" where no field is at fault; retry_seconds: 0 for don't."""

    code: Code
    reason: str
    message: str
    field: str = ""
    retry_seconds: float = 0.0


_KINDS: dict[type[DelError], tuple[Code, str]] = {
    InvalidValue: (Code.INVALID_ARGUMENT, "VALUE_INVALID"),
    FrameError: (Code.INVALID_ARGUMENT, "FRAME_INVALID"),
    UnknownQuery: (Code.NOT_FOUND, "QUERY_UNKNOWN"),
    QueryIdInUse: (Code.ALREADY_EXISTS, "QUERY_ID_IN_USE"),
    UnknownTask: (Code.NOT_FOUND, "TASK_UNKNOWN"),
    UnknownCodec: (Code.FAILED_PRECONDITION, "CODEC_UNKNOWN"),
    MismatchError: (Code.FAILED_PRECONDITION, "MISMATCH"),
    ExhaustedError: (Code.RESOURCE_EXHAUSTED, "SERVER_FULL"),
    TooManyQueries: (Code.RESOURCE_EXHAUSTED, "STREAM_FULL"),
    QuotaExceeded: (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"),
    AccessDenied: (Code.UNAUTHENTICATED, "ACCESS_DENIED"),
    UnavailableError: (Code.UNAVAILABLE, "ENGINE_STOPPED"),
    Draining: (Code.UNAVAILABLE, "SERVER_DRAINING"),
    EngineError: (Code.INTERNAL, "ENGINE_FAILED"),
}

_UNEXPECTED = "INTERNAL"
# Of every Problem that there can be.
REASONS = (*(reason for _, reason in _KINDS.values()), _UNEXPECTED)


def problem_of(error: Exception) -> Problem:
    """What to tell a client; an error that DEL did not raise on purpose keeps its text to itself."""
    for kind in type(error).__mro__:
        if kind in _KINDS:
            code, reason = _KINDS[kind]
            field = error.field if isinstance(error, InvalidValue) else ""
            return Problem(code, reason, str(error), field, _retry_seconds(error))
    return Problem(Code.INTERNAL, _UNEXPECTED, "the server failed on this query; its log says why")


def _retry_seconds(error: Exception) -> float:
    if isinstance(error, ExhaustedError):
        return error.retry_after
    if isinstance(error, Draining):
        return _ELSEWHERE_SECONDS
    return _RETRY_SECONDS if isinstance(error, UnavailableError) else 0.0
