"""What `del-server serve` is asked for, and the limits that follow from it. Knows nothing of torch or gRPC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from del_codec.address import is_loopback
from del_codec.errors import InvalidValue

ENGINES = ("transformers", "vllm")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SEGMENTS = 1 << 12
QUERIES_PER_STREAM = 64
STREAMS = 1024
MESSAGE_BYTES = 1 << 20
DEFAULT_NEW_TOKENS = 256
CANDIDATES = 256
CANDIDATE_TOKENS = 1 << 12
MOST_REPLICAS = 64
# On the wire: a token id, a coordinate of eight bits, and what frames a segment, a candidate or a whole message.
ID_BYTES, COORDINATE_BYTES, FRAMING_BYTES = 5, 1, 64


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Options of `del-server serve`.

    codecs: folders; empty for the shipped ones that were made for the model. engine_args: vLLM's own settings by name,
    passed through. port: 0 picks a free one. tracing: whether spans go to an OpenTelemetry collector. metrics_port: 0
    for none. metrics_host: where it listens, "" for `host`. max_concurrent: answers in progress at once; eight times as
    many may wait. kv_tokens: bounds the keys and values of all of them together, 0 for as many contexts; kv_bytes:
    their memory, instead. context_tokens: 0 for the model's own. compile: decode steps are compiled, which takes a GPU.
    drain_seconds: how long queries may go on after SIGTERM. tls_cert, tls_key, tls_client_ca: PEM files, see
    service/tls.py. insecure: plain text to other machines, where everyone on the way reads and changes what is sent.
    tokens: what callers must show one of, see access/tokens.py. quotas: what they may take, see access/quotas.py.
    connection_age: seconds after which a connection takes no more streams and a stream no more queries, so that clients
    spread over servers; 0: ever. channelz: gRPC's own account of its connections, to whoever may call.
    """

    model: str = "smollm2"
    codecs: tuple[Path, ...] = ()
    engine: str = "transformers"
    engine_args: Mapping[str, object] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 50051
    metrics_port: int = 0
    metrics_host: str = ""
    max_concurrent: int = 16
    replicas: int = 1
    kv_tokens: int = 0
    kv_bytes: int = 0
    context_tokens: int = 0
    compile: bool = False
    dtype: str = "auto"
    device: str = "auto"
    drain_seconds: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    tokens: Path | None = None
    quotas: Path | None = None
    connection_age: float = 1800.0
    channelz: bool = False
    tracing: bool = False

    def __post_init__(self) -> None:
        for name in ("port", "metrics_port"):
            if not 0 <= getattr(self, name) < 1 << 16:
                raise InvalidValue(name.replace("_", "-"), getattr(self, name), "use a port from 0 to 65535")
        if self.metrics_host and not self.metrics_port:
            raise InvalidValue(
                "metrics-host", self.metrics_host, "give --metrics-port, too: without one there are none"
            )
        if self.metrics_port and self.metrics_port == self.port and self.metrics_host in ("", self.host):
            raise InvalidValue("metrics-port", self.metrics_port, "that is --port: give the metrics one of their own")
        if not 1 <= self.max_concurrent <= 1024:
            raise InvalidValue("max-concurrent", self.max_concurrent, "use 1 to 1024")
        if not 1 <= self.replicas <= MOST_REPLICAS:
            raise InvalidValue("replicas", self.replicas, f"use 1 to {MOST_REPLICAS}")
        if self.kv_bytes and self.engine == "vllm":
            raise InvalidValue(
                "kv-bytes", self.kv_bytes, "use --kv-tokens, or --engine-arg gpu_memory_utilization=SHARE"
            )
        if self.compile and self.engine == "vllm":
            raise InvalidValue(
                "compile", True, "leave it out: vLLM compiles by itself (--engine-arg enforce-eager=false)"
            )
        if self.compile and self.device == "cpu":
            raise InvalidValue("compile", True, "leave it out: steps are compiled for a GPU alone, and --device is cpu")
        for name in ("kv_tokens", "kv_bytes"):
            if getattr(self, name) < 0:
                raise InvalidValue(name.replace("_", "-"), getattr(self, name), "use 0 (off), or a number above it")
        if self.kv_tokens and self.kv_bytes:
            raise InvalidValue("kv-bytes", self.kv_bytes, "give one of --kv-tokens and --kv-bytes")
        if self.context_tokens and self.context_tokens < 16:
            raise InvalidValue("context", self.context_tokens, "use 0 (the model's own) or at least 16 tokens")
        if self.engine not in ENGINES:
            raise InvalidValue("engine", self.engine, f"use one of {', '.join(ENGINES)}")
        if self.engine_args and self.engine != "vllm":
            raise InvalidValue(
                "engine-arg", next(iter(self.engine_args)), "these are vLLM's settings: add --engine vllm"
            )
        if self.dtype not in DTYPES:
            raise InvalidValue("dtype", self.dtype, f"use one of {', '.join(DTYPES)}")
        if not 0 <= self.drain_seconds <= 86_400:
            raise InvalidValue("drain-seconds", self.drain_seconds, "use 0 to 86400")
        if self.connection_age and not 1 <= self.connection_age <= 86_400:  # false for NaN too
            raise InvalidValue("connection-age", self.connection_age, "use 0 (no bound) or 1 to 86400")
        self._check_tls()

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls-key" if self.tls_key is None else "tls-cert"
            raise InvalidValue(missing, None, "give --tls-cert and --tls-key together, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidValue(
                "tls-client-ca",
                str(self.tls_client_ca),
                "clients show certificates over TLS alone: give --tls-cert and --tls-key",
            )
        if self.insecure and self.tls_cert is not None:
            raise InvalidValue("insecure", True, "leave it out: with --tls-cert nothing is plain text")
        if self.tokens is not None and self.insecure and not is_loopback(self.host):
            raise InvalidValue("tokens", str(self.tokens), "leave out --insecure: tokens in plain text are no secrets")
        if not (self.tls_cert or self.insecure or is_loopback(self.host)):
            raise InvalidValue(
                "host",
                self.host,
                "other machines reach it: give --tls-cert and --tls-key, or --insecure for plain text that everyone "
                "on the way reads and changes",
            )


def parse_engine_args(pairs: Sequence[str]) -> dict[str, object]:
    """KEY=VALUE each: a value is JSON (2, true, {"a": 1}), or else text. Raises InvalidValue."""
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        name = key.strip().replace("-", "_")
        if not name or not equals:
            raise InvalidValue("engine-arg", pair, "use KEY=VALUE, such as tensor_parallel_size=2")
        if name in found:
            raise InvalidValue("engine-arg", name, "it is given twice")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


@dataclass(frozen=True, slots=True)
class Limits:
    """A server's bounds, checked before anything is allocated (see docs/wire-format.md).

    context_tokens: soft prompt, prompt and answer together. default_new_tokens: where a query leaves it to the server.
    """

    context_tokens: int
    prompt_tokens: int
    new_tokens: int
    default_new_tokens: int
    message_bytes: int
    queries_per_stream: int = QUERIES_PER_STREAM
    segments: int = SEGMENTS
    candidates: int = CANDIDATES
    candidate_tokens: int = CANDIDATE_TOKENS

    @classmethod
    def derive(cls, context_tokens: int, soft_tokens: int, dim: int) -> Limits:
        """The limits of a context that must hold a soft prompt, a prompt and one token of the answer at least.

        dim: coordinates a private token has. A message has room for the largest prompt and the candidates after it.
        """
        prompt = context_tokens - soft_tokens - 1
        if prompt < 1:
            raise InvalidValue("context", context_tokens, f"the soft prompt alone takes {soft_tokens} tokens")
        most = context_tokens - 1
        size = prompt * max(ID_BYTES, dim * COORDINATE_BYTES) + CANDIDATE_TOKENS * ID_BYTES
        size += (SEGMENTS + CANDIDATES + 1) * FRAMING_BYTES
        return cls(context_tokens, prompt, most, min(DEFAULT_NEW_TOKENS, most), max(MESSAGE_BYTES, size))

    @property
    def query_tokens(self) -> int:
        """The most tokens that anything asked for comes to."""
        return max(self.context_tokens, self.prompt_tokens + self.candidate_tokens)
