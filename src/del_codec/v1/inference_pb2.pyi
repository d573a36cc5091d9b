from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason

class GenerateRequest(_message.Message):
    __slots__ = ("query_id", "open", "segments", "end", "cancel", "padding")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    open: OpenQuery
    segments: SegmentChunk
    end: EndPrompt
    cancel: CancelQuery
    padding: bytes
    def __init__(self, query_id: _Optional[int] = ..., open: _Optional[_Union[OpenQuery, _Mapping]] = ..., segments: _Optional[_Union[SegmentChunk, _Mapping]] = ..., end: _Optional[_Union[EndPrompt, _Mapping]] = ..., cancel: _Optional[_Union[CancelQuery, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class OpenQuery(_message.Message):
    __slots__ = ("codec_fingerprint", "task", "prompt_tokens", "options", "resume_token_ids", "shaping", "segments", "end")
    CODEC_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SHAPING_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    codec_fingerprint: bytes
    task: str
    prompt_tokens: int
    options: GenerationOptions
    resume_token_ids: _containers.RepeatedScalarFieldContainer[int]
    shaping: Shaping
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    end: bool
    def __init__(self, codec_fingerprint: _Optional[bytes] = ..., task: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., resume_token_ids: _Optional[_Iterable[int]] = ..., shaping: _Optional[_Union[Shaping, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., end: bool = ...) -> None: ...

class Shaping(_message.Message):
    __slots__ = ("tokens", "interval_ms", "bucket_bytes")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_BYTES_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    interval_ms: int
    bucket_bytes: int
    def __init__(self, tokens: _Optional[int] = ..., interval_ms: _Optional[int] = ..., bucket_bytes: _Optional[int] = ...) -> None: ...

class GenerationOptions(_message.Message):
    __slots__ = ("max_new_tokens", "temperature", "top_p", "top_k", "seed", "logprobs", "ignore_eos", "repetition_penalty", "stop")
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    logprobs: int
    ignore_eos: bool
    repetition_penalty: float
    stop: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., seed: _Optional[int] = ..., logprobs: _Optional[int] = ..., ignore_eos: bool = ..., repetition_penalty: _Optional[float] = ..., stop: _Optional[_Iterable[str]] = ...) -> None: ...

class SegmentChunk(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    def __init__(self, segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("private", "public")
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_FIELD_NUMBER: _ClassVar[int]
    private: PrivateSegment
    public: PublicSegment
    def __init__(self, private: _Optional[_Union[PrivateSegment, _Mapping]] = ..., public: _Optional[_Union[PublicSegment, _Mapping]] = ...) -> None: ...

class PrivateSegment(_message.Message):
    __slots__ = ("bits", "noise_scale", "tokens", "payload")
    BITS_FIELD_NUMBER: _ClassVar[int]
    NOISE_SCALE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    bits: int
    noise_scale: int
    tokens: int
    payload: bytes
    def __init__(self, bits: _Optional[int] = ..., noise_scale: _Optional[int] = ..., tokens: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class PublicSegment(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class EndPrompt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelQuery(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("query_id", "delta", "finish", "error", "padding")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    delta: TokenDelta
    finish: FinishedQuery
    error: QueryError
    padding: bytes
    def __init__(self, query_id: _Optional[int] = ..., delta: _Optional[_Union[TokenDelta, _Mapping]] = ..., finish: _Optional[_Union[FinishedQuery, _Mapping]] = ..., error: _Optional[_Union[QueryError, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class TokenDelta(_message.Message):
    __slots__ = ("token_ids", "text", "logprobs")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprob", "top")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token_id", "logprob")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class FinishedQuery(_message.Message):
    __slots__ = ("reason", "usage", "timings")
    REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    usage: Usage
    timings: Timings
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("private_tokens", "public_tokens", "new_tokens", "payload_bytes", "received_bytes", "sent_bytes")
    PRIVATE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    private_tokens: int
    public_tokens: int
    new_tokens: int
    payload_bytes: int
    received_bytes: int
    sent_bytes: int
    def __init__(self, private_tokens: _Optional[int] = ..., public_tokens: _Optional[int] = ..., new_tokens: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_us", "decode_us", "prefill_us", "generate_us", "first_token_us")
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    PREFILL_US_FIELD_NUMBER: _ClassVar[int]
    GENERATE_US_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_US_FIELD_NUMBER: _ClassVar[int]
    queue_us: int
    decode_us: int
    prefill_us: int
    generate_us: int
    first_token_us: int
    def __init__(self, queue_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., prefill_us: _Optional[int] = ..., generate_us: _Optional[int] = ..., first_token_us: _Optional[int] = ...) -> None: ...

class QueryError(_message.Message):
    __slots__ = ("code", "reason", "message", "field", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    field: str
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("codec_fingerprint", "task", "segments", "candidates", "token_logprobs", "padding")
    CODEC_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    codec_fingerprint: bytes
    task: str
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    token_logprobs: bool
    padding: bytes
    def __init__(self, codec_fingerprint: _Optional[bytes] = ..., task: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., token_logprobs: bool = ..., padding: _Optional[bytes] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "usage", "timings", "padding")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedCompositeFieldContainer[CandidateScore]
    usage: Usage
    timings: Timings
    padding: bytes
    def __init__(self, scores: _Optional[_Iterable[_Union[CandidateScore, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class CandidateScore(_message.Message):
    __slots__ = ("logprob", "tokens", "token_logprobs")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    tokens: int
    token_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, logprob: _Optional[float] = ..., tokens: _Optional[int] = ..., token_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("server_version", "model", "codecs", "limits", "engine", "oldest_protocol", "newest_protocol")
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NEWEST_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    server_version: str
    model: str
    codecs: _containers.RepeatedCompositeFieldContainer[CodecInfo]
    limits: Limits
    engine: str
    oldest_protocol: int
    newest_protocol: int
    def __init__(self, server_version: _Optional[str] = ..., model: _Optional[str] = ..., codecs: _Optional[_Iterable[_Union[CodecInfo, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., engine: _Optional[str] = ..., oldest_protocol: _Optional[int] = ..., newest_protocol: _Optional[int] = ...) -> None: ...

class CodecInfo(_message.Message):
    __slots__ = ("fingerprint", "size", "dim", "vocabulary", "mu_milli_min", "mu_milli_max", "tokenizer_sha256", "chat_template_sha256", "tasks", "task_infos")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    MU_MILLI_MIN_FIELD_NUMBER: _ClassVar[int]
    MU_MILLI_MAX_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_SHA256_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TASK_INFOS_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    size: int
    dim: int
    vocabulary: int
    mu_milli_min: int
    mu_milli_max: int
    tokenizer_sha256: bytes
    chat_template_sha256: bytes
    tasks: _containers.RepeatedScalarFieldContainer[str]
    task_infos: _containers.RepeatedCompositeFieldContainer[TaskInfo]
    def __init__(self, fingerprint: _Optional[bytes] = ..., size: _Optional[int] = ..., dim: _Optional[int] = ..., vocabulary: _Optional[int] = ..., mu_milli_min: _Optional[int] = ..., mu_milli_max: _Optional[int] = ..., tokenizer_sha256: _Optional[bytes] = ..., chat_template_sha256: _Optional[bytes] = ..., tasks: _Optional[_Iterable[str]] = ..., task_infos: _Optional[_Iterable[_Union[TaskInfo, _Mapping]]] = ...) -> None: ...

class TaskInfo(_message.Message):
    __slots__ = ("name", "template", "labels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    template: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., template: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("context_tokens", "prompt_tokens", "new_tokens", "queries_per_stream", "message_bytes", "segments", "candidates", "candidate_tokens")
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_PER_STREAM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    context_tokens: int
    prompt_tokens: int
    new_tokens: int
    queries_per_stream: int
    message_bytes: int
    segments: int
    candidates: int
    candidate_tokens: int
    def __init__(self, context_tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., new_tokens: _Optional[int] = ..., queries_per_stream: _Optional[int] = ..., message_bytes: _Optional[int] = ..., segments: _Optional[int] = ..., candidates: _Optional[int] = ..., candidate_tokens: _Optional[int] = ...) -> None: ...

class DownloadCodecRequest(_message.Message):
    __slots__ = ("fingerprint",)
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ...) -> None: ...

class DownloadCodecResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...
