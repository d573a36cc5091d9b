"""What operators' tools expect of any gRPC server: health, reflection, channelz, deadlines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving import Serving, StartServer, public

from del_server.engine.transformers import TransformersEngine
from del_server.service.health import HealthReport
from del_server.service.listening import SERVICE

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def status(serving: Serving, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(serving.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(response.status)


class TestHealth:
    async def test_nobody_is_told_that_it_serves_before_the_warm_up(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        warming, warm = asyncio.Event(), asyncio.Event()
        really = TransformersEngine.start

        async def start(engine: TransformersEngine) -> None:
            warming.set()
            await warm.wait()
            await really(engine)

        monkeypatch.setattr(TransformersEngine, "start", start)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        @asynccontextmanager
        async def held() -> AsyncIterator[Serving]:
            async with start_server(port=port) as serving:
                yield serving

        server = held()
        starting = asyncio.create_task(server.__aenter__())
        await warming.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        warm.set()
        serving = await starting
        for service in ("", "ready", "live", SERVICE):
            assert await status(serving, service) == SERVING
        await server.__aexit__(None, None, None)

    async def test_while_it_drains_it_lives_and_is_not_ready(self, start_server: StartServer) -> None:
        async with start_server() as serving:
            stub = health_pb2_grpc.HealthStub(serving.channel)
            watched = {name: stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("ready", "live")}
            for call in watched.values():
                assert (await call.read()).status == SERVING
            talk = serving.talk()
            await talk.open(1, 1)
            await talk.open(2, 1)
            await talk.cancel(2)
            await talk.until(lambda: bool(talk.replies[2].finish))
            stopping = asyncio.create_task(serving.stop())
            assert (await watched["ready"].read()).status == NOT_SERVING
            await talk.segments(1, public(5))
            await talk.end(1)
            assert len((await talk.answer(1)).token_ids) == 8
            for call in watched.values():
                call.cancel()
            await stopping

    async def test_leaving_is_no_reason_for_a_restart(self) -> None:
        report = HealthReport(lambda: True, SERVICE)
        await report.leave()
        await report.tell()
        found = {}
        for name in ("live", "ready", "", SERVICE):
            found[name] = (await report.servicer.Check(health_pb2.HealthCheckRequest(service=name), None)).status
        assert found == {"live": SERVING, "ready": NOT_SERVING, "": NOT_SERVING, SERVICE: NOT_SERVING}

    async def test_a_dead_engine_is_neither_alive_nor_ready(self, start_server: StartServer) -> None:
        async with start_server() as serving:
            await serving.backend.engine.stop()
            for service in ("", "ready", "live", SERVICE):
                while await status(serving, service) != NOT_SERVING:
                    await asyncio.sleep(0.01)

    async def test_an_unknown_service_is_not_found(self, start_server: StartServer) -> None:
        async with start_server() as serving:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await status(serving, "nothing")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_tells_a_client_without_our_protos_what_there_is(start_server: StartServer) -> None:
    def read(port: int) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = set(database.get_services())
            file = database.FindFileContainingSymbol(SERVICE)
            return services, [method.name for method in file.service[0].method]

    async with start_server() as serving:
        services, methods = await asyncio.to_thread(read, serving.port)
    assert services == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert methods == ["Generate", "Score", "GetServerInfo", "DownloadCodec"]


async def test_channelz_is_there_only_where_it_is_asked_for(start_server: StartServer) -> None:
    request = channelz_pb2.GetServersRequest()
    async with start_server() as serving:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channelz_pb2_grpc.ChannelzStub(serving.channel).GetServers(request)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with start_server(channelz=True) as serving:
        found = await channelz_pb2_grpc.ChannelzStub(serving.channel).GetServers(request)
        assert found.server[0].data.calls_started >= 1


async def test_a_deadline_ends_a_stream_and_frees_its_place(start_server: StartServer) -> None:
    async with start_server() as serving:
        call = serving.stub.Generate(timeout=0.5)
        opening = serving.talk()
        await opening.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        while serving.backend.admission.taken or serving.backend.engine.load().running:
            await asyncio.sleep(0.01)
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        await talk.answer(1)
        await talk.close()


def test_the_page_names_what_there_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for flag in (
        "--tls-cert",
        "--tls-client-ca",
        "--insecure",
        "--tokens",
        "--quotas",
        "--connection-age",
        "--channelz",
    ):
        assert flag in page
    for name in ("`live`", "`ready`", SERVICE):
        assert name in page
