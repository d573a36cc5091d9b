"""Traces: OpenTelemetry spans of what a client asks, gone on with by a server that traces, too.

The context goes along in the metadata of a call of the query's own, as a W3C traceparent and nothing else. A span has
numbers, never a prompt's or an answer's text. Who reads traces, the server first, can tell which queries belong
together: leave them off where that must not be known. Needs opentelemetry-api, which the base install lacks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Protocol, TypeVar

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from del_client.query import Event, Finish, Metadata, Query, Scores, Usage
from del_client.retrying import SendOnce
from del_codec.errors import DelError

T = TypeVar("T")
_PARENT = "traceparent"


class SendTraced(Protocol):
    """Sends a query once, in a call with that metadata."""

    def __call__(self, query: Query, *, metadata: Metadata) -> AsyncGenerator[Event]:
        """Its events."""


class Tracing:
    """Spans "del_client.generate" and "del_client.score", one for each attempt; provider: None for the global one.

    They are children of the span that is current when something is asked.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("del_client", tracer_provider=provider)

    def generating(self, send_once: SendTraced) -> SendOnce:
        """The same, with a span around it."""

        async def send(query: Query) -> AsyncGenerator[Event]:
            with self._span("del_client.generate") as span:
                span.set_attribute("gen_ai.usage.input_tokens", query.prompt_tokens)
                async with aclosing(send_once(query, metadata=_metadata(span))) as events:
                    async for event in events:
                        if isinstance(event, Finish):
                            span.set_attribute("gen_ai.response.finish_reasons", [event.reason])
                            _note(span, event.usage, event.wire_bytes)
                        yield event

        return send

    async def scoring(self, send: Callable[[Metadata], Awaitable[Scores]]) -> Scores:
        """What `send` gives, with a span around it."""
        with self._span("del_client.score") as span:
            scores = await send(_metadata(span))
            _note(span, scores.usage, scores.wire_bytes)
            return scores

    @contextmanager
    def _span(self, name: str) -> Iterator[trace.Span]:
        # Not made the current one: what yields would leave it to whoever reads.
        span = self._tracer.start_span(name, kind=trace.SpanKind.CLIENT)
        try:
            yield span
        except DelError as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            span.end()


def _metadata(span: trace.Span) -> Metadata:
    """The span's traceparent; none where OpenTelemetry was given nothing to make spans with."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return ((_PARENT, carrier[_PARENT]),) if _PARENT in carrier else ()


def _note(span: trace.Span, usage: Usage, wire_bytes: int) -> None:
    span.set_attribute("gen_ai.usage.output_tokens", usage.new_tokens)
    span.set_attribute("del.private_tokens", usage.private_tokens)
    span.set_attribute("del.payload_bytes", usage.payload_bytes)
    span.set_attribute("del.wire_bytes", wire_bytes)
