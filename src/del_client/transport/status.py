"""Errors that a server reports, as gRPC statuses or as QueryError messages, to the errors of del_codec.

Part of the transport: the codes are google.rpc.Code. Knows nothing of streams.
"""

from __future__ import annotations

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from del_codec.errors import (
    AccessDenied,
    DelError,
    EngineError,
    ExhaustedError,
    InvalidValue,
    MismatchError,
    UnavailableError,
)
from del_codec.v1 import inference_pb2 as pb

_MAX_TEXT = 2000
# Seconds; a server that asks for more is asked again after so many.
_LONGEST_WAIT = 86_400.0
# What grpc.aio says, under INTERNAL, where a write meets a connection that has just been lost.
_LOST = "Internal error from Core"
# What grpc.aio says where TLS was not agreed upon.
_NO_TLS = ("handshake failed", "Handshake failed", "Verification Check failed")
# And where the other side gave up in the middle of it: an alert of TLS 1.3 comes too late to be told apart.
_HUNG_UP = ("failed to connect", "Socket closed")


def query_error(error: pb.QueryError) -> DelError:
    """The error of one query."""
    wait = min(error.retry_after_ms / 1000, _LONGEST_WAIT)
    return _error(error.code, error.message or error.reason, error.field, wait or None)


def rpc_error(error: grpc.aio.AioRpcError, server: str) -> DelError:
    """The error of a whole call, with what its details say of the field at fault and of when to try again."""
    field, retry_after = _details(error)
    text = error.details() or error.code().name
    if error.code() is grpc.StatusCode.INTERNAL and text == _LOST:
        return UnavailableError(f"the connection to {server} was lost", 0.0)
    if error.code() is grpc.StatusCode.UNAVAILABLE and any(sign in text for sign in _NO_TLS):
        return UnavailableError(_no_handshake(text, server))
    if error.code() is grpc.StatusCode.UNAVAILABLE and not retry_after:
        text = _unreached(text, server)
    elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = f"no server answers at {server} in time: start one with `del-server serve` or name another"
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        # A lost connection says nothing of when, and may be made again at once; nor does a server's gRPC, which drops
        # some of a thousand calls that come together.
        retry_after = retry_after or 0.0
    return _error(error.code().value[0], text, field, retry_after)


def _unreached(text: str, server: str) -> str:
    if all(sign in text for sign in _HUNG_UP):
        return (
            f"{server} hangs up: maybe it speaks TLS (--tls-ca), or asks for another certificate (--tls-cert) ({text})"
        )
    return f"no server answers at {server}: start one with `del-server serve` or name another ({text})"


def _no_handshake(text: str, server: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text or "Verification Check" in text:
        remedy = "its certificate is not one that --tls-ca and --tls-name allow, or has expired"
    else:
        remedy = "it may speak plain text, which --insecure allows off this machine, or ask for --tls-cert"
    return f"no TLS with {server}: {remedy} ({text})"


def _details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """The field at fault and the seconds after which a retry may help, where the status has them."""
    field, retry_after = "", None
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # all that it reads, the error has too
        for detail in status.details if status else ():
            bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad_request) and bad_request.field_violations:
                field = bad_request.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = min(max(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, 0.0), _LONGEST_WAIT)
    except (ValueError, DecodeError):  # a server may write anything there
        pass
    return field, retry_after


def _error(code: int, text: str, field: str, retry_after: float | None) -> DelError:
    text = text[:_MAX_TEXT]
    if code in _values(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        refused = InvalidValue(field or "request", None, text)
        refused.args = (text,)  # the server's text names field and value already
        return refused
    if code in _values(grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED):
        return MismatchError(text)
    if code in _values(grpc.StatusCode.RESOURCE_EXHAUSTED):
        return ExhaustedError(text, retry_after or 1.0)
    if code in _values(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return AccessDenied(text)
    if code in _values(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return UnavailableError(text, retry_after)
    if code in _values(grpc.StatusCode.DEADLINE_EXCEEDED):
        return UnavailableError(text)
    if code in _values(grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return EngineError(text)
    return DelError(text)


def _values(*codes: grpc.StatusCode) -> set[int]:
    return {code.value[0] for code in codes}
