"""Server information, codec download, health and draining."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from serving import Serving, StartServer, public

from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_server.service.servicer import CHUNK_BYTES
from del_server.status import Code


async def test_server_information(start_server: StartServer, tiny_model: Path, tiny_codec: Path) -> None:
    async with start_server() as serving:
        info = await serving.stub.GetServerInfo(pb.GetServerInfoRequest())
    device = (tiny_codec / "device.safetensors").read_bytes()
    spec = LatentTable.from_bytes(device).spec
    assert (info.model, info.engine) == (str(tiny_model), "transformers")
    assert info.server_version
    (codec,) = info.codecs
    assert codec.fingerprint == hashlib.sha256(device).digest()
    assert (codec.size, codec.dim, codec.vocabulary) == (len(device), 16, 259)
    assert (codec.mu_milli_min, codec.mu_milli_max) == (1_000, 60_000)
    assert codec.tokenizer_sha256.hex() == spec.tokenizer_sha256
    assert codec.chat_template_sha256.hex() == spec.chat_template_sha256
    assert (list(codec.tasks), list(codec.task_infos)) == ([], [])
    assert info.limits == pb.Limits(
        context_tokens=512,
        prompt_tokens=512 - 4 - 1,
        new_tokens=511,
        queries_per_stream=64,
        message_bytes=1 << 20,
        segments=1 << 12,
        candidates=256,
        candidate_tokens=1 << 12,
    )


async def test_the_device_half_comes_in_chunks_that_hash_to_its_fingerprint(start_server: StartServer) -> None:
    async with start_server() as serving:
        object.__setattr__(serving.backend.codecs[0], "device_bytes", b"x" * (2 * CHUNK_BYTES + 5))
        call = serving.stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=serving.fingerprint))
        assert [len(response.chunk) async for response in call] == [CHUNK_BYTES, CHUNK_BYTES, 5]
    async with start_server() as serving:
        call = serving.stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=serving.fingerprint))
        data = b"".join([response.chunk async for response in call])
        assert hashlib.sha256(data).digest() == serving.fingerprint


@pytest.mark.parametrize("fingerprint", [b"", b"\x01" * 32, b"\x01" * 5])
async def test_a_codec_that_is_not_served_is_refused_with_details(
    start_server: StartServer, fingerprint: bytes
) -> None:
    async with start_server() as serving:
        call = serving.stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=fingerprint))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    status = rpc_status.from_call(caught.value)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("CODEC_UNKNOWN", "del_codec.v1")
    assert "fetch" in status.message


async def check(serving: Serving, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(serving.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


async def test_health_follows_the_engine(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("del_server.service.health.SECONDS", 0.01)
    async with start_server() as serving:
        for service in ("", "del_codec.v1.InferenceService"):
            assert await check(serving, service) == health_pb2.HealthCheckResponse.SERVING
        await serving.backend.engine.stop()
        while await check(serving, "") == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.01)
        assert serving.sample("engine_healthy") == 0


async def test_draining_finishes_what_was_accepted_and_takes_no_more(start_server: StartServer) -> None:
    async with start_server(drain_seconds=200.0) as serving:
        talk, idle = serving.talk(), serving.talk()
        await idle.ask(1, [public(5)])
        await idle.answer(1)
        await talk.ask(1, [public(5)], options={"max_new_tokens": 450, "ignore_eos": True})
        await talk.until(lambda: bool(talk.replies[1].deltas))
        leaving = asyncio.ensure_future(serving.stop())
        await idle.closed()
        await talk.ask(2, [public(5)])
        error = await talk.error(2)
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "SERVER_DRAINING")
        assert error.retry_after_ms > 0
        assert len((await talk.answer(1)).token_ids) == 450
        await talk.closed()
        await leaving
