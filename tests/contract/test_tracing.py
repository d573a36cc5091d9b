"""Traces from client to server: one trace, the right parents, numbers and never words."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from serving import Serving, StartServer, Talk, public

from del_client import AsyncClient, Patience
from del_client.codec_cache import CodecCache
from del_client.tracing import Tracing
from del_codec.errors import DelError
from del_server import app
from del_server.opentelemetry_tracing import OpenTelemetryTracing

ASKED = "Zanzibar"
GENERATE, SCORE = (f"del_codec.v1.InferenceService/{method}" for method in ("Generate", "Score"))


class Seen:
    """The spans of one side."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def text(self) -> str:
        return "".join(span.to_json() for span in self._exporter.get_finished_spans())


@dataclass
class Pair:
    """A client and a server, and what each side tells of itself."""

    serving: Serving
    client: AsyncClient
    device: Seen
    server: Seen


Start = Callable[[bool], AbstractAsyncContextManager[Pair]]


@pytest.fixture
def start(start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tiny_codec: Path, tmp_path: Path) -> Start:
    """Starts both; a server that does not trace is one that was not told to."""

    @asynccontextmanager
    async def pair(tracing: bool) -> AsyncIterator[Pair]:
        device, server = Seen(), Seen()
        if tracing:
            monkeypatch.setattr(app, "tracing_of", lambda config: OpenTelemetryTracing(server.provider))
        async with start_server(tracing=tracing) as serving:
            client = AsyncClient(
                f"127.0.0.1:{serving.port}",
                tokenizer=tiny_codec / "tokenizer.json",
                chat_template=tiny_codec / "chat_template.jinja",
                cache=CodecCache(tmp_path),
                ledger=tmp_path / "ledger.sqlite3",
                patience=Patience(0),
                tracing=Tracing(device.provider),
            )
            async with client:
                yield Pair(serving, client, device, server)

    return pair


async def test_a_query_is_one_trace_on_both_sides(start: Start) -> None:
    token = context.attach(baggage.set_baggage("user", "grace"))
    async with start(True) as pair:
        with pair.device.provider.get_tracer("app").start_as_current_span("own"):
            answer = pair.client.generate(ASKED, mu=5, bits=2, max_new_tokens=6)
            said = "".join([delta.text async for delta in answer])
    context.detach(token)
    chain = [
        pair.device.only("own"),
        pair.device.only("del_client.generate"),
        pair.server.only(GENERATE),
        pair.server.only("query"),
    ]
    assert len({span.context.trace_id for span in chain}) == 1
    for parent, child in itertools.pairwise(chain):
        assert child.parent.span_id == parent.context.span_id
    _, asked, call, query = chain
    assert (asked.kind, call.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert query.attributes["del.private_tokens"] == asked.attributes["del.private_tokens"] == len(ASKED)
    assert query.attributes["gen_ai.usage.output_tokens"] == answer.usage.new_tokens
    assert query.attributes["del.bits"] == 2
    assert query.attributes["del.prefill_seconds"] > 0
    assert asked.attributes["gen_ai.response.finish_reasons"] == (answer.finish.reason,)
    for secret in (ASKED, said):
        assert secret
        assert secret not in pair.device.text() + pair.server.text()
    assert "grace" not in pair.server.text()


async def test_queries_at_once_have_traces_of_their_own(start: Start) -> None:
    async with start(True) as pair:
        answers = [aiter(pair.client.generate(word, mu=5, max_new_tokens=6)) for word in ("one", "two")]
        for answer in answers:
            await anext(answer)
        for answer in answers:
            [delta async for delta in answer]
    traces = {span.context.trace_id for span in pair.device.named("del_client.generate")}
    assert len(traces) == 2
    assert {span.context.trace_id for span in pair.server.named("query")} == traces


async def test_a_refusal_is_named_without_its_words(start: Start) -> None:
    async with start(True) as pair:
        admission = pair.serving.backend.admission
        for number in range(admission.places):
            admission.ask(f"caller {number}")
        with pytest.raises(DelError, match="at once"):
            [delta async for delta in pair.client.generate(ASKED, mu=5)]
    query, asked = pair.server.only("query"), pair.device.only("del_client.generate")
    assert (query.status.status_code, query.attributes["error.type"]) == (StatusCode.ERROR, "SERVER_FULL")
    assert (asked.status.status_code, asked.attributes["error.type"]) == (StatusCode.ERROR, "ExhaustedError")
    assert "at once" not in pair.server.text() + pair.device.text()


async def test_an_answer_that_is_left_ends_its_spans(start: Start) -> None:
    async with start(True) as pair:
        async for _ in pair.client.generate(ASKED, mu=5, max_new_tokens=300):
            break
        while not pair.server.named(GENERATE):  # the server learns of it over the network
            await asyncio.sleep(0.01)
    assert pair.device.only("del_client.generate").end_time
    assert pair.server.only(GENERATE).end_time
    assert pair.server.only("query").attributes["gen_ai.usage.output_tokens"] < 300


async def test_classifying_is_traced_too(start: Start) -> None:
    async with start(True) as pair:
        await pair.client.classify(ASKED, labels=["good", "bad"], mu=5)
    asked, call, query = pair.device.only("del_client.score"), pair.server.only(SCORE), pair.server.only("query")
    assert call.parent.span_id == asked.context.span_id
    assert query.parent.span_id == call.context.span_id
    assert ASKED not in pair.device.text() + pair.server.text()


async def test_a_server_that_was_not_told_to_traces_nothing(start: Start) -> None:
    async with start(False) as pair:
        [delta async for delta in pair.client.generate("hi", mu=5, max_new_tokens=2)]
    assert pair.device.only("del_client.generate")
    assert pair.server.text() == ""


async def test_a_bad_traceparent_starts_a_trace_of_the_servers_own(start: Start) -> None:
    async with start(True) as pair:
        for header in ("", "00-zz-xx-01", "x" * 5000, f"00-{'0' * 32}-{'0' * 16}-01"):
            talk = Talk(pair.serving.stub.Generate(metadata=(("traceparent", header),)))
            await talk.ask(1, [public(5, 6)])
            await talk.answer(1)
            await talk.close()
    assert [span.parent for span in pair.server.named(GENERATE)] == [None] * 4
