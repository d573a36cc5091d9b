"""Protobuf messages to and from the plain data of query.py. Part of the transport; knows nothing of streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from del_client.query import (
    PLAIN,
    CodecOffer,
    Finish,
    FinishReason,
    GenerationOptions,
    Limits,
    Query,
    Question,
    Score,
    Scores,
    ServerInfo,
    Shaping,
    Timings,
    TokenDelta,
    TokenLogprobs,
    Usage,
)
from del_codec.errors import InvalidValue, MismatchError
from del_codec.frame import PrivateSegment, PublicSegment, Segment
from del_codec.padding import padding
from del_codec.protocol import check_server
from del_codec.task import Task
from del_codec.v1 import inference_pb2 as pb

GRPC_PREFIX_BYTES = 5
DEFAULT_MESSAGE_BYTES = 1 << 20
MAX_TASKS = 256
# Tags, lengths and the small fields around one piece, and the most that one token id takes.
_FRAMING_BYTES = 48
_ID_BYTES = 5
# Room that no segment exceeds: it is not cut.
_WHOLE = 1 << 30

_REASONS: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CANCELLED: "cancelled",
}


def wire_size(message: pb.GenerateRequest | pb.ScoreRequest) -> int:
    """Bytes of a message with gRPC's prefix; HTTP/2 and TCP add theirs."""
    return int(message.ByteSize()) + GRPC_PREFIX_BYTES


def requests(query_id: int, query: Query, message_bytes: int) -> Iterator[pb.GenerateRequest]:
    """The messages of one query, each of at most `message_bytes` (0: a default): one where all fits in it."""
    bucket = query.shaping.bucket_bytes
    opening = pb.OpenQuery(
        codec_fingerprint=bytes.fromhex(query.fingerprint),
        prompt_tokens=query.prompt_tokens,
        options=_options(query.options),
        resume_token_ids=query.resume,
        shaping=_shaping(query.shaping),
    )
    room = max((message_bytes or DEFAULT_MESSAGE_BYTES) - bucket - _FRAMING_BYTES, 2 * _FRAMING_BYTES)
    groups = _groups(query.segments, opening.ByteSize(), room)
    opening.segments.extend(next(groups))
    group = next(groups, None)
    opening.end = group is None
    yield _padded(pb.GenerateRequest(query_id=query_id, open=opening), bucket)
    while group is not None:
        yield _padded(pb.GenerateRequest(query_id=query_id, segments=pb.SegmentChunk(segments=group)), bucket)
        group = next(groups, None)
    if not opening.end:
        yield _padded(pb.GenerateRequest(query_id=query_id, end=pb.EndPrompt()), bucket)


def _padded(request: pb.GenerateRequest, bucket: int) -> pb.GenerateRequest:
    request.padding = padding(request.ByteSize(), bucket)
    return request


def _groups(segments: Sequence[Segment], taken: int, room: int) -> Iterator[list[pb.Segment]]:
    """The segments of one message after the other, cut to fit; `taken`: bytes of the first that are in use."""
    group: list[pb.Segment] = []
    for segment in segments:
        for piece in _pieces(segment, room - _FRAMING_BYTES):
            cost = piece.ByteSize() + _FRAMING_BYTES
            if taken and taken + cost > room:
                yield group
                group, taken = [], 0
            group.append(piece)
            taken += cost
    yield group


def _pieces(segment: Segment, room: int) -> Iterator[pb.Segment]:
    """A segment in pieces of at most `room` bytes, cut between tokens."""
    if isinstance(segment, PublicSegment):
        step = max(room // _ID_BYTES, 1)
        for start in range(0, segment.tokens, step):
            yield pb.Segment(public=pb.PublicSegment(token_ids=segment.token_ids[start : start + step]))
        return
    for tokens, payload in _cuts(segment, room):
        yield pb.Segment(
            private=pb.PrivateSegment(
                bits=segment.setting.bits, noise_scale=segment.setting.scale, tokens=tokens, payload=payload
            )
        )


def _cuts(segment: PrivateSegment, room: int) -> Iterator[tuple[int, bytes]]:
    """(tokens, payload) of each piece: whole eights of tokens, which end on a whole byte whatever a token's bits."""
    payload = segment.payload
    if len(payload) <= room:
        yield segment.tokens, payload
        return
    eight = 8 * len(payload) // segment.tokens  # bytes of eight tokens; of fewer, at least all
    step = max(room // eight, 1)
    for start in range(0, segment.tokens, 8 * step):
        at = start // 8 * eight
        yield min(8 * step, segment.tokens - start), payload[at : at + step * eight]


def _shaping(shaping: Shaping) -> pb.Shaping | None:
    if shaping == PLAIN:
        return None
    return pb.Shaping(tokens=shaping.tokens, interval_ms=shaping.interval_ms, bucket_bytes=shaping.bucket_bytes)


def _options(options: GenerationOptions) -> pb.GenerationOptions:
    return pb.GenerationOptions(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p if options.top_p < 1 else 0,
        top_k=options.top_k,
        seed=options.seed,
        logprobs=options.logprobs,
        repetition_penalty=0 if options.repetition_penalty == 1 else options.repetition_penalty,
    )


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """Raises MismatchError for a codec that a device can't take, or another version of the wire."""
    check_server(message.oldest_protocol, message.newest_protocol)
    limits = message.limits
    return ServerInfo(
        version=message.server_version,
        model=message.model,
        engine=message.engine,
        codecs=tuple(_offer(codec) for codec in message.codecs),
        limits=Limits(
            context_tokens=limits.context_tokens,
            prompt_tokens=limits.prompt_tokens,
            new_tokens=limits.new_tokens,
            message_bytes=limits.message_bytes,
            segments=limits.segments,
            candidates=limits.candidates,
            candidate_tokens=limits.candidate_tokens,
        ),
    )


def _offer(codec: pb.CodecInfo) -> CodecOffer:
    try:
        tasks = tuple(Task(info.name, info.template, tuple(info.labels)) for info in codec.task_infos[:MAX_TASKS])
    except InvalidValue as error:
        raise MismatchError(f"the server's codec has a task that is none: {error}") from None
    return CodecOffer(codec.fingerprint.hex(), codec.size, tasks)


def token_delta(message: pb.TokenDelta) -> TokenDelta:
    """One piece of an answer. Raises MismatchError where some of its tokens have log-probabilities, and others none."""
    if not message.logprobs:
        return TokenDelta(tuple(message.token_ids), message.text)
    if len(message.logprobs) != len(message.token_ids):
        raise MismatchError(f"the server gave {len(message.logprobs)} logprobs for {len(message.token_ids)} tokens")
    logprobs = tuple(
        TokenLogprobs(position.logprob, tuple((top.token_id, top.logprob) for top in position.top))
        for position in message.logprobs
    )
    return TokenDelta(tuple(message.token_ids), message.text, logprobs)


def finish(message: pb.FinishedQuery, wire_bytes: int) -> Finish:
    """The end of an answer; a reason that this client doesn't know counts as "stop"."""
    reason = _REASONS.get(message.reason, "stop")
    return Finish(reason, _usage(message.usage), _timings(message.timings), wire_bytes)


def score_request(question: Question) -> pb.ScoreRequest:
    """The one message of a question."""
    return pb.ScoreRequest(
        codec_fingerprint=bytes.fromhex(question.fingerprint),
        task=question.task,
        segments=[piece for segment in question.segments for piece in _pieces(segment, _WHOLE)],
        candidates=[pb.Candidate(token_ids=ids) for ids in question.candidates],
    )


def scores(message: pb.ScoreResponse, question: Question, wire_bytes: int) -> Scores:
    """Raises MismatchError unless there is one finite score for each candidate."""
    found = tuple(Score(score.logprob, score.tokens) for score in message.scores)
    if len(found) != len(question.candidates) or not all(math.isfinite(score.logprob) for score in found):
        raise MismatchError(f"the server gave {len(found)} scores for {len(question.candidates)} candidates")
    return Scores(found, _usage(message.usage), _timings(message.timings), wire_bytes)


def _usage(message: pb.Usage) -> Usage:
    return Usage(
        private_tokens=message.private_tokens,
        public_tokens=message.public_tokens,
        new_tokens=message.new_tokens,
        payload_bytes=message.payload_bytes,
        received_bytes=message.received_bytes,
        sent_bytes=message.sent_bytes,
    )


def _timings(message: pb.Timings) -> Timings:
    return Timings(
        queue_us=message.queue_us,
        decode_us=message.decode_us,
        prefill_us=message.prefill_us,
        generate_us=message.generate_us,
        first_token_us=message.first_token_us,
    )
