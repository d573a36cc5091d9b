"""Protobuf messages to and from the plain data of queries, codecs and errors. Knows nothing of streams."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from del_codec import protocol
from del_codec.errors import FrameError, InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.task import Task
from del_codec.v1 import inference_pb2 as pb
from del_server.backend import Backend
from del_server.codec import ServedCodec
from del_server.config import Limits
from del_server.engine.base import Reason, Sampling, Scored
from del_server.prompt import Prompt
from del_server.query import Delta, Opening, Query, Timings
from del_server.score import Asked, Question
from del_server.status import Problem

GRPC_PREFIX = 5
_ERROR_DOMAIN = "del_codec.v1"
_REASONS = {
    Reason.STOP: pb.FINISH_REASON_STOP,
    Reason.LENGTH: pb.FINISH_REASON_LENGTH,
    Reason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}


def opening_from_pb(message: pb.OpenQuery, limits: Limits) -> Opening:
    """Raises InvalidValue that names the field."""
    codec = _fingerprint(message.codec_fingerprint)
    options, resume = message.options, tuple(message.resume_token_ids)
    if options.max_new_tokens > limits.new_tokens:
        raise InvalidValue("max_new_tokens", options.max_new_tokens, f"ask for at most {limits.new_tokens}")
    sampling = Sampling(
        max_tokens=options.max_new_tokens or limits.default_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p or 1.0,
        top_k=options.top_k,
        seed=options.seed if options.HasField("seed") else secrets.randbits(64),
        logprobs=options.logprobs if options.HasField("logprobs") else None,
        ignore_eos=options.ignore_eos,
        position=len(resume),
        repetition_penalty=options.repetition_penalty or 1.0,
        before=resume,
    )
    return Opening(codec, message.task, message.prompt_tokens, sampling, resume, tuple(options.stop))


def asked_from_pb(message: pb.ScoreRequest) -> Asked:
    """Raises InvalidValue or FrameError that names the field."""
    return Asked(
        codec=_fingerprint(message.codec_fingerprint),
        task=message.task,
        segments=[segment_from_pb(segment, index) for index, segment in enumerate(message.segments)],
        candidates=[tuple(candidate.token_ids) for candidate in message.candidates],
    )


def _fingerprint(raw: bytes) -> str:
    if len(raw) not in (0, 32):
        raise InvalidValue("codec_fingerprint", f"{len(raw)} bytes", "a SHA-256 has 32 bytes")
    return raw.hex()


def segment_from_pb(message: pb.Segment, index: int) -> Segment:
    """Raises InvalidValue or FrameError that names the field; `index` is the segment's place in its message."""
    try:
        if message.HasField("private"):
            private = message.private
            setting = NoiseSetting(private.bits, private.noise_scale)
            return PrivateSegment(setting, private.tokens, private.payload)
        if message.HasField("public"):
            return PublicSegment(tuple(message.public.token_ids))
    except InvalidValue as error:
        raise type(error)(f"segments[{index}].{error.field}", error.value, error.remedy) from None
    raise FrameError(f"segments[{index}].kind", "missing", "a segment is private or public")


def add_delta(message: pb.TokenDelta, delta: Delta) -> None:
    """Append new tokens to the wire's form of those before them."""
    message.token_ids.extend(delta.token_ids)
    message.text += delta.text
    for position in delta.logprobs:
        top = [pb.TokenLogprob(token_id=token, logprob=value) for token, value in position.top]
        message.logprobs.add(logprob=position.chosen, top=top)


def finish_to_pb(query: Query, reason: Reason) -> pb.FinishedQuery:
    """The wire's form of an answer's end; times rounded down to microseconds."""
    usage = _usage(query.prompt, query.received_bytes)
    usage.new_tokens, usage.sent_bytes = query.new_tokens, query.sent_bytes
    return pb.FinishedQuery(reason=_REASONS[reason], usage=usage, timings=_timings(query.timings))


def scored_to_pb(question: Question, scored: Scored, received_bytes: int, token_logprobs: bool) -> pb.ScoreResponse:
    """The wire's form of all scores, which counts its own bytes."""
    response = pb.ScoreResponse(
        scores=[
            pb.CandidateScore(
                logprob=math.fsum(values), tokens=len(values), token_logprobs=values if token_logprobs else []
            )
            for values in scored.logprobs
        ],
        usage=_usage(question.prompt, received_bytes),
        timings=_timings(question.timings),
    )
    count_itself(response, response.usage, 0)
    return response


def count_itself(
    message: pb.GenerateResponse | pb.ScoreResponse,
    usage: pb.Usage,
    sent_before: int,
    pad: Callable[[Any], object] | None = None,
) -> None:
    """Set usage.sent_bytes, which is in the message, to all that was sent with it: it settles after a round or two."""
    while usage.sent_bytes != (total := sent_before + message.ByteSize() + GRPC_PREFIX):
        usage.sent_bytes = total
        if pad is not None:
            pad(message)


def _usage(prompt: Prompt, received_bytes: int) -> pb.Usage:
    return pb.Usage(
        private_tokens=prompt.private_tokens,
        public_tokens=prompt.public_tokens,
        payload_bytes=prompt.payload_bytes,
        received_bytes=received_bytes,
    )


def _timings(phases: Timings) -> pb.Timings:
    return pb.Timings(
        queue_us=int(phases.queue * 1e6),
        decode_us=int(phases.decode * 1e6),
        prefill_us=int(phases.prefill * 1e6),
        generate_us=int(phases.generate * 1e6),
        first_token_us=int(phases.first_token * 1e6),
    )


def info_to_pb(backend: Backend) -> pb.GetServerInfoResponse:
    """What a server serves."""
    limits = backend.limits
    return pb.GetServerInfoResponse(
        server_version=backend.version,
        model=backend.model,
        engine=backend.engine.name,
        oldest_protocol=protocol.OLDEST,
        newest_protocol=protocol.NEWEST,
        codecs=[codec_to_pb(codec) for codec in backend.codecs],
        limits=pb.Limits(
            context_tokens=limits.context_tokens,
            prompt_tokens=limits.prompt_tokens,
            new_tokens=limits.new_tokens,
            queries_per_stream=limits.queries_per_stream,
            message_bytes=limits.message_bytes,
            segments=limits.segments,
            candidates=limits.candidates,
            candidate_tokens=limits.candidate_tokens,
        ),
    )


def codec_to_pb(codec: ServedCodec) -> pb.CodecInfo:
    """What a client needs to know of a codec before it fetches it."""
    spec = codec.table.spec
    return pb.CodecInfo(
        fingerprint=bytes.fromhex(codec.fingerprint),
        size=len(codec.device_bytes),
        dim=spec.dim,
        vocabulary=spec.vocabulary,
        mu_milli_min=spec.mu_milli_min,
        mu_milli_max=spec.mu_milli_max,
        tokenizer_sha256=bytes.fromhex(spec.tokenizer_sha256),
        chat_template_sha256=bytes.fromhex(spec.chat_template_sha256),
        tasks=list(codec.tasks),
        task_infos=[task_to_pb(served.task) for served in codec.tasks.values()],
    )


def task_to_pb(task: Task) -> pb.TaskInfo:
    """What a client needs to know of a task."""
    return pb.TaskInfo(name=task.name, template=task.template, labels=task.labels)


def problem_to_pb(problem: Problem) -> pb.QueryError:
    """The wire's form of one query's error."""
    return pb.QueryError(
        code=int(problem.code),
        reason=problem.reason,
        message=problem.message,
        field=problem.field,
        retry_after_ms=int(problem.retry_seconds * 1000),
    )


def status_to_pb(problem: Problem) -> status_pb2.Status:
    """A status with google.rpc's details: ErrorInfo, and BadRequest and RetryInfo where they apply."""
    status = status_pb2.Status(code=int(problem.code), message=problem.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=problem.reason, domain=_ERROR_DOMAIN))
    if problem.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if problem.retry_seconds:
        delay = Duration()
        delay.FromMilliseconds(int(problem.retry_seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status
