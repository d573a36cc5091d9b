"""Errors as OpenAI's clients read them: {"error": {message, type, param, code}} under an HTTP status.

Of an error that nobody foresaw the caller learns nothing but that there was one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from del_client.gateway.finite import finite
from del_client.terminal import safe
from del_codec.errors import (
    AccessDenied,
    DelError,
    EngineError,
    ExhaustedError,
    InvalidValue,
    LimitExceeded,
    MismatchError,
    PrivacyRefusal,
    TimedOut,
    UnavailableError,
)

INVALID, REFUSED, DENIED, LIMITED, SERVER = (
    "invalid_request_error",
    "privacy_refusal",
    "authentication_error",
    "rate_limit_error",
    "server_error",
)
NOT_AGAIN = {"x-should-retry": "false"}
# Of a DEL field the name that it has in a request; the prompt's depends on the request.
_PARAMS = {
    "max_new_tokens": "max_tokens",
    "mu": "del.mu",
    "bits": "del.bits",
    "top_k": "del.top_k",
    "repetition_penalty": "del.repetition_penalty",
}
TOO_LONG = "prompt tokens"
_TOO_LONG = (TOO_LONG, "tokens of prompt and answer", "segments")
_OF_PROMPT = (*_TOO_LONG, "prompt", "messages", "message")
_SERVED = "use POST /v1/chat/completions, POST /v1/completions or GET /v1/models"
_MOST_CHARS = 1000
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error. details: more fields of it, under "del"."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        named = None if param is None else _short(param)
        error: dict[str, Any] = {"message": _short(safe(message)), "type": kind, "param": named, "code": code}
        if details is not None:
            error["del"] = dict(details)
        self.body = {"error": error}

    def response(self) -> JSONResponse:
        """The same as a response."""
        return JSONResponse(self.body, self.status, self.headers)


def _short(text: str) -> str:
    """What a caller sent may be named in an error, but not sent back whole."""
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"


def api_error(error: Exception, prompt: str = "messages") -> ApiError:
    """What a caller is told of any error. prompt: the field that holds the prompt."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return ApiError(error.status_code, f"{error.detail}: {_SERVED}" if code else error.detail, code=code)
    if isinstance(error, DelError):
        return _of_del(error, prompt)
    _log.error("the gateway failed", exc_info=error)
    return ApiError(500, "the gateway failed; its log says more", kind=SERVER, code="internal_error")


def _of_del(error: DelError, prompt: str) -> ApiError:
    text = str(error)
    if isinstance(error, InvalidValue):
        code = "context_length_exceeded" if error.field in _TOO_LONG else "invalid_value"
        param = prompt if error.field in _OF_PROMPT else _PARAMS.get(error.field, error.field)
        return ApiError(400, text, param=param, code=code)
    if isinstance(error, LimitExceeded):
        return _of_limit(error)
    if isinstance(error, PrivacyRefusal):
        return ApiError(403, text, kind=REFUSED, code="privacy_refused", headers=NOT_AGAIN)
    if isinstance(error, ExhaustedError):
        wait = _retry_after(error.retry_after)
        return ApiError(429, text, kind=LIMITED, code="rate_limit_exceeded", headers=wait)
    if isinstance(error, UnavailableError):
        wait = _retry_after(error.retry_after or 1.0)
        return ApiError(503, text, kind=SERVER, code="server_unavailable", headers=wait)
    if isinstance(error, TimedOut):
        return ApiError(504, text, kind=SERVER, code="timed_out", headers=NOT_AGAIN)
    if isinstance(error, AccessDenied):
        return ApiError(502, text, kind=SERVER, code="server_denied_access", headers=NOT_AGAIN)
    if isinstance(error, MismatchError):
        return ApiError(502, text, kind=SERVER, code="codec_mismatch", headers=NOT_AGAIN)
    code = "engine_failed" if isinstance(error, EngineError) else "failed"
    return ApiError(500, text, kind=SERVER, code=code, headers=NOT_AGAIN)


def _of_limit(error: LimitExceeded) -> ApiError:
    """A limit of a day is one that waiting helps with; the others stand for this prompt for good."""
    of_day = error.limit.startswith("limits.day")
    names = ("limit", "value", "bound", "largest_mu", "most_tokens")
    return ApiError(
        429 if of_day else 403,
        str(error),
        kind="insufficient_quota" if of_day else REFUSED,
        code="insufficient_quota" if of_day else "privacy_limit_exceeded",
        headers=NOT_AGAIN,
        details={name: finite(getattr(error, name)) for name in names},
    )


def _retry_after(seconds: float) -> dict[str, str]:
    """As HTTP has it, in whole seconds, and as OpenAI's clients read it besides."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, math.ceil(1000 * seconds)))}


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Starlette's handler of every exception."""
    return api_error(error).response()
