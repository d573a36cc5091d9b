"""The metrics of a server: right figures for what was asked, and no series more for whatever else is sent."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from serving import PREFIX, Serving, StartServer, public

from del_codec.accounting import epsilon_of
from del_codec.meters import EPSILON, EPSILON_DELTA
from del_codec.noise import NoiseSetting
from del_codec.released import releases_of
from del_codec.v1 import inference_pb2 as pb
from del_server.metrics.calls import CODES, CallMetrics, Method
from del_server.service.call_counting import timed

SERVICE = "del_codec.v1.InferenceService"


def series(serving: Serving) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in serving.backend.metrics.registry.collect()
        for sample in family.samples
    }


def call_sample(serving: Serving, name: str, kind: str, method: str, **labels: str) -> float:
    labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": method, **labels}
    value = serving.backend.metrics.registry.get_sample_value(f"grpc_server_{name}", labels)
    assert value is not None, (name, labels)
    return value


async def test_a_private_query_is_counted_under_its_bits_and_noise(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        segments = [public(5, 6), serving.private(7, 8, 9, bits=3, mu=7.0), serving.private(10, bits=2, mu=14.0)]
        await talk.ask(1, segments, codec_fingerprint=serving.fingerprint)
        reply = await talk.answer(1)
        await talk.ask(2, [public(5, 6, 7)])
        plain = await talk.answer(2)
        sample = serving.sample
        assert sample("payload_bytes_total", direction="received", bits="3") == 3 * 16 * 3 / 8
        assert sample("payload_bytes_total", direction="received", bits="2") == 16 * 2 / 8
        assert sample("wire_bytes_total", direction="sent", bits="3") == reply.received_bytes
        assert sample("wire_bytes_total", direction="sent", bits="0") == plain.received_bytes
        assert sample("payload_bytes_total", direction="sent", bits="3") == len(reply.text.encode())
        received = [sample("wire_bytes_total", direction="received", bits=str(bits)) for bits in range(9)]
        assert sum(received) == talk.sent_bytes[1] + talk.sent_bytes[2]
        assert sample("embedding_bytes_total", dtype="float16") == 4 * 32 * 2
        assert sample("embedding_bytes_total", dtype="float32") == 4 * 32 * 4
        assert sample("private_prompts_total", codec=serving.fingerprint.hex()[:12]) == 1
        assert sample("prompt_token_bytes_sum") == pytest.approx(talk.sent_bytes[1] / 6 + talk.sent_bytes[2] / 3)
        assert sample("query_seconds_count") == 2
        assert sample("prompt_mu_bucket", le="12.0") == 0
        assert sample("prompt_mu_bucket", le="15.0") == sample("prompt_mu_count") == 1
        while not sample("prompt_epsilon_count"):
            await asyncio.sleep(0.01)
        table = serving.backend.codecs[0].table
        tokens = {NoiseSetting.from_mu(7.0, 16, 3): 3, NoiseSetting.from_mu(14.0, 16, 2): 1}
        exact = epsilon_of(releases_of(table, tokens), EPSILON_DELTA)
        assert exact <= sample("prompt_epsilon_sum") <= 1.1 * exact
        assert sum(sample("prompt_epsilon_bucket", le=str(bound)) for bound in EPSILON if bound < exact) == 0


async def test_a_question_is_counted_too(start_server: StartServer) -> None:
    async with start_server() as serving:
        request = pb.ScoreRequest(
            codec_fingerprint=serving.fingerprint,
            segments=[serving.private(7, 8, bits=4)],
            candidates=[pb.Candidate(token_ids=[5])],
        )
        response = await serving.stub.Score(request)
        assert serving.sample("wire_bytes_total", direction="received", bits="4") == request.ByteSize() + PREFIX
        assert serving.sample("wire_bytes_total", direction="sent", bits="4") == response.ByteSize() + PREFIX
        assert serving.sample("prompt_mu_count") == serving.sample("query_seconds_count") == 1


async def test_the_gauges_say_how_full_the_server_is(start_server: StartServer) -> None:
    async with start_server(max_concurrent=2, kv_tokens=600) as serving:
        assert serving.sample("queries_running_limit") == 2
        assert serving.sample("queries_waiting_limit") == 16
        assert serving.sample("kv_cache_tokens_limit") == 600
        assert serving.sample("kv_cache_token_bytes") == 2 * 2 * 2 * 8 * 4  # k and v, layers, heads, width, float32
        talk = serving.talk()
        await talk.ask(1, [public(5, 6)], options={"max_new_tokens": 400, "ignore_eos": True})
        await talk.until(lambda: len(talk.replies[1].deltas) > 1)  # the memory is counted at the end of a round
        assert serving.sample("queries_running") == 1
        assert 400 <= serving.sample("kv_cache_tokens") <= 600
        assert 0 < serving.sample("kv_cache_bytes") <= serving.sample("kv_cache_bytes_limit")
        await talk.cancel(1)
        await talk.answer(1)
        while serving.sample("kv_cache_tokens"):
            await asyncio.sleep(0.01)


async def test_refusals_are_counted_by_reason(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(999_999)])
        await talk.error(1)
        await talk.ask(2, [serving.private(7)], codec_fingerprint=bytes(32))
        await talk.error(2)
        with pytest.raises(grpc.aio.AioRpcError):
            await serving.stub.Score(pb.ScoreRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            [_ async for _ in serving.stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=bytes(32)))]
        assert serving.sample("refusals_total", reason="VALUE_INVALID") == 2
        assert serving.sample("refusals_total", reason="CODEC_UNKNOWN") == 2
        assert serving.sample("refusals_total", reason="INTERNAL") == 0


async def test_calls_are_counted_as_grpc_servers_do(start_server: StartServer) -> None:
    async with start_server() as serving:
        await serving.stub.GetServerInfo(pb.GetServerInfoRequest())
        chunks = [_ async for _ in serving.stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=serving.fingerprint))]
        with pytest.raises(grpc.aio.AioRpcError):
            await serving.stub.Score(pb.ScoreRequest())
        talk = serving.talk()
        await talk.ask(1, [public(5, 6)])
        reply = await talk.answer(1)
        await talk.close()
        await handled(serving, "bidi_stream", "Generate", "OK")
        assert call_sample(serving, "started_total", "unary", "GetServerInfo") == 1
        assert call_sample(serving, "handled_total", "unary", "GetServerInfo", grpc_code="OK") == 1
        assert call_sample(serving, "handled_total", "unary", "Score", grpc_code="InvalidArgument") == 1
        assert call_sample(serving, "handled_total", "unary", "Score", grpc_code="OK") == 0
        assert call_sample(serving, "msg_sent_total", "server_stream", "DownloadCodec") == len(chunks)
        assert call_sample(serving, "msg_received_total", "bidi_stream", "Generate") == 3
        assert call_sample(serving, "msg_sent_total", "bidi_stream", "Generate") == len(reply.sizes)
        assert call_sample(serving, "handling_seconds_count", "bidi_stream", "Generate") == 1


async def test_calls_that_break_off_are_counted_by_why(start_server: StartServer) -> None:
    async with start_server() as serving:
        endless = {"max_new_tokens": 400, "ignore_eos": True}
        left = serving.talk()
        await left.ask(1, [public(5, 6)], options=endless)
        await left.until(lambda: bool(left.replies[1].deltas))
        left.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left.closed()
        await handled(serving, "bidi_stream", "Generate", "Canceled")


@pytest.mark.parametrize(("left", "code"), [(None, "Canceled"), (3.0, "Canceled"), (-0.001, "DeadlineExceeded")])
async def test_a_call_that_is_cut_off_was_cancelled_or_late(left: float | None, code: str) -> None:
    registry = CollectorRegistry()
    meter = CallMetrics(registry, [Method("unary", "some.Service", "Ask")]).meter("/some.Service/Ask")
    assert meter is not None
    context = SimpleNamespace(time_remaining=lambda: left, code=lambda: 0)
    with pytest.raises(asyncio.CancelledError), timed(context, meter):
        raise asyncio.CancelledError
    labels = {"grpc_type": "unary", "grpc_service": "some.Service", "grpc_method": "Ask"}
    for other in CODES:
        value = registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": other})
        assert value == (other == code)


async def handled(serving: Serving, kind: str, method: str, code: str) -> None:
    """Wait until a call's end is counted."""
    while not call_sample(serving, "handled_total", kind, method, grpc_code=code):
        await asyncio.sleep(0.01)


def garbage(chance: random.Random) -> pb.GenerateRequest:
    """A request with fields at random."""
    words = "".join(chance.choices('abcµ{}"\\\n', k=chance.randrange(40)))
    segment = pb.Segment(
        private=pb.PrivateSegment(
            bits=chance.randrange(12),
            noise_scale=chance.randrange(1 << 18),
            tokens=chance.randrange(4),
            payload=b"\xff",
        )
    )
    opening = pb.OpenQuery(
        codec_fingerprint=chance.randbytes(chance.choice((0, 32))),
        task=words,
        prompt_tokens=chance.randrange(4),
        options=pb.GenerationOptions(max_new_tokens=chance.randrange(600), temperature=chance.gauss(0, 5)),
        segments=[segment, public(chance.randrange(600))],
        end=chance.random() < 0.5,
    )
    events: list[dict[str, Any]] = [
        {"open": opening},
        {"segments": pb.SegmentChunk(segments=[segment])},
        {"end": pb.EndPrompt()},
        {"cancel": pb.CancelQuery()},
    ]
    return pb.GenerateRequest(query_id=chance.randrange(1 << 32), **chance.choice(events))


async def test_no_input_makes_a_new_series(start_server: StartServer) -> None:
    chance = random.Random(7)
    async with start_server() as serving:
        before = series(serving)
        talk = serving.talk()
        for _ in range(500):
            await talk.call.write(garbage(chance))
        for bits in range(1, 9):
            mu = chance.uniform(0.5, 200)
            await talk.ask(bits, [serving.private(7, bits=bits, mu=mu)], codec_fingerprint=serving.fingerprint)
            await talk.answer(bits)
        for path in ("/nobody/Knows", f"/{SERVICE}/Unheard", f"/{SERVICE}/{'x' * 1000}"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.channel.unary_unary(path)(chance.randbytes(9))
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError):
            await serving.channel.unary_unary(f"/{SERVICE}/Score")(b"\xff\xff")
        assert series(serving) == before
        assert 300 < len(before) < 1000


async def test_the_page_may_have_an_address_of_its_own(start_server: StartServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]

    def page(host: str) -> bytes:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics") as response:
            read: bytes = response.read()
            return read

    async with start_server(metrics_host="127.0.0.2", metrics_port=port):
        assert b"del_server_build_info" in await asyncio.to_thread(page, "127.0.0.2")
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(page, "127.0.0.1")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus has it)")
async def test_names_follow_prometheus_rules(start_server: StartServer) -> None:
    async with start_server() as serving:
        page = generate_latest(serving.backend.metrics.registry)
    found = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
