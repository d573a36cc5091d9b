"""OpenTelemetryTracing: spans of calls and queries, for a collector. Needs the extra packages of `.[tracing]`.

A call's span goes on a client's trace where its metadata has a traceparent (W3C Trace Context); nothing else of the
metadata is read. An error is named by the reason that the client is told, without its text, which may quote values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from del_server.status import problem_of
from del_server.tracing import Asked, Tracing

_NAME = "del_server"
_PARENT = "traceparent"


class OpenTelemetryTracing(Tracing):
    """See the module's docstring."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer(_NAME)

    @classmethod
    def from_environment(cls) -> OpenTelemetryTracing:
        """Spans to an OTLP collector over gRPC, as OpenTelemetry's variables say (OTEL_EXPORTER_OTLP_ENDPOINT ...)."""
        resource = Resource.create({"service.name": "del-server"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[None]:
        """See Tracing."""
        parent = TraceContextTextMapPropagator().extract({_PARENT: metadata.get(_PARENT, "")})
        service, _, name = method.removeprefix("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with self._span(f"{service}/{name}", SpanKind.SERVER, parent, attributes):
            yield

    @contextmanager
    def query(self, asked: Asked) -> Iterator[None]:
        """See Tracing."""
        with self._span("query", SpanKind.INTERNAL, None, {}) as span:
            try:
                yield
            finally:
                span.set_attributes(_facts(asked))

    def close(self) -> None:
        """See Tracing."""
        self._provider.shutdown()

    @contextmanager
    def _span(self, name: str, kind: SpanKind, parent: Context | None, attributes: Mapping[str, str]) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_attribute("error.type", problem_of(error).reason)
                span.set_status(StatusCode.ERROR)
                raise


def _facts(asked: Asked) -> dict[str, int | float]:
    prompt, timings = asked.prompt, asked.timings
    return {
        "gen_ai.usage.input_tokens": prompt.tokens,
        "gen_ai.usage.output_tokens": asked.new_tokens,
        "del.private_tokens": prompt.private_tokens,
        "del.payload_bytes": prompt.payload_bytes,
        "del.bits": int(prompt.bits),
        "del.queue_seconds": timings.queue,
        "del.decode_seconds": timings.decode,
        "del.prefill_seconds": timings.prefill,
        "del.first_token_seconds": timings.first_token,
        "del.generate_seconds": timings.generate,
    }
