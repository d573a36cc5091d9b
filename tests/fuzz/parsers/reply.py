"""What a server sends to a device: its information, pieces and ends of answers, scores, errors and their details.

The first byte says which message follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from del_client.query import Question
from del_client.transport import messages
from del_client.transport.status import query_error, rpc_error
from del_codec.errors import DelError, ExhaustedError, UnavailableError
from del_codec.v1 import inference_pb2 as pb

from ..target import Target

_DETAILS = "grpc-status-details-bin"
_QUESTION = Question("0" * 64, (), ((1,), (2, 3)))


def check(data: bytes) -> None:
    kind = _KINDS.get(data[:1])
    if kind is not None:
        kind(data[1:])


def _info(data: bytes) -> None:
    message = _parsed(pb.GetServerInfoResponse, data)
    if message is None:
        return
    try:
        info = messages.server_info(message)
    except DelError:
        return
    assert len(info.codecs) == len(message.codecs)
    for codec in info.codecs:
        assert len(codec.fingerprint) == 64
        assert 0 < codec.size <= 1 << 28


def _answer(data: bytes) -> None:
    message = _parsed(pb.GenerateResponse, data)
    if message is None:
        return
    messages.finish(message.finish, 1)
    _check_error(query_error(message.error))
    try:
        delta = messages.token_delta(message.delta)
    except DelError:
        return
    assert len(delta.logprobs) in (0, len(delta.token_ids))


def _scores(data: bytes) -> None:
    message = _parsed(pb.ScoreResponse, data)
    if message is None:
        return
    try:
        scores = messages.scores(message, _QUESTION, 1)
    except DelError:
        return
    assert len(scores.scores) == 2
    assert all(math.isfinite(score.logprob) for score in scores.scores)


def _status(data: bytes) -> None:
    """The details that a call's end carries; its code and text are those of the first bytes."""
    codes = list(grpc.StatusCode)
    code, text, details = codes[data[0] % len(codes) if data else 0], data[1:9].decode(errors="replace"), data[9:]
    trailing = grpc.aio.Metadata((_DETAILS, details))
    _check_error(rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, text), "server:1"))


def _check_error(error: DelError) -> None:
    assert len(str(error)) < 4096
    if isinstance(error, (ExhaustedError, UnavailableError)) and error.retry_after is not None:
        assert 0 <= error.retry_after < math.inf


def _parsed(kind: type[Any], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None  # gRPC answers this before any of our code runs


_KINDS: dict[bytes, Callable[[bytes], None]] = {b"i": _info, b"a": _answer, b"s": _scores, b"e": _status}


def seeds() -> list[bytes]:
    task = pb.TaskInfo(name="t", template="{} So: {}?", labels=["yes", "no"])
    codec = pb.CodecInfo(fingerprint=bytes(32), size=1000, dim=4, vocabulary=24, tasks=["t"], task_infos=[task])
    info = pb.GetServerInfoResponse(
        server_version="1", model="m", codecs=[codec], limits=pb.Limits(context_tokens=64), newest_protocol=1
    )
    top = [pb.TokenLogprob(token_id=3, logprob=-1.5)]
    delta = pb.TokenDelta(token_ids=[3], text="a", logprobs=[pb.TokenLogprobs(logprob=-0.5, top=top)])
    finish = pb.FinishedQuery(reason=1, usage=pb.Usage(new_tokens=2), timings=pb.Timings(queue_us=5))
    failed = pb.QueryError(code=8, reason="FULL", message="wait", field="f", retry_after_ms=100)
    score = pb.CandidateScore(logprob=-2.0, tokens=1)
    return [
        b"i" + info.SerializeToString(),
        *(
            b"a" + pb.GenerateResponse(**event).SerializeToString()
            for event in ({"delta": delta}, {"finish": finish}, {"error": failed})
        ),
        b"s" + pb.ScoreResponse(scores=[score, score]).SerializeToString(),
        *(b"e" + bytes([at]) + b"no room!" + _details(code) for at, code in ((8, 8), (14, 14), (3, 3))),
    ]


def _details(code: int) -> bytes:
    violation = error_details_pb2.BadRequest.FieldViolation(field="mu", description="no")
    status = status_pb2.Status(code=code, message="no room!")
    for detail in (
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=5)),
    ):
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 20) + 512 * size,
    modules=("del_client.transport.messages", "del_client.transport.status", "del_client.query"),
    most_bytes=1024,
    words=tuple(
        name.encode() for name in (AnyMessage.DESCRIPTOR.full_name, "type.googleapis.com/google.rpc.RetryInfo")
    ),
)
