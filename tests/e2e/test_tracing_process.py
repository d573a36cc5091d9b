"""`del-server serve --tracing` sends its spans to a collector, as OpenTelemetry's variables say."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_rpc
from server_process import SERVE, running

from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub
from del_server.cli import main

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(collector_rpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.exports: list[collector_pb2.ExportTraceServiceRequest] = []

    def Export(self, request, context):
        self.exports.append(request)
        return collector_pb2.ExportTraceServiceResponse()


def test_spans_reach_a_collector_and_go_on_with_the_callers_trace(
    tiny_model: Path, tiny_codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, at = Collector(), grpc.server(ThreadPoolExecutor(2))
    collector_rpc.add_TraceServiceServicer_to_server(collector, at)
    port = at.add_insecure_port("127.0.0.1:0")
    at.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
    serve = [*SERVE, "--model", str(tiny_model), "--codec", str(tiny_codec), "--tracing"]
    with running(serve) as address, grpc.insecure_channel(address) as channel:
        request = pb.ScoreRequest(
            segments=[pb.Segment(public=pb.PublicSegment(token_ids=[5, 6]))], candidates=[pb.Candidate(token_ids=[7])]
        )
        InferenceServiceStub(channel).Score(request, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
    at.stop(None).wait()
    resources = [resource for export in collector.exports for resource in export.resource_spans]
    named = {attribute.key: attribute.value.string_value for attribute in resources[0].resource.attributes}
    assert named["service.name"] == "answers"
    spans = {span.name: span for part in resources for scope in part.scope_spans for span in scope.spans}
    call, query = spans["del_codec.v1.InferenceService/Score"], spans["query"]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert (query.trace_id.hex(), query.parent_span_id) == (TRACE, call.span_id)


def test_what_is_missing_is_named(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "del_server.opentelemetry_tracing", raising=False)
    assert main(["serve", "--model", str(tiny_model), "--port", "0", "--tracing"]) != 0
    assert "pip install 'del-inference[tracing]'" in capsys.readouterr().err
