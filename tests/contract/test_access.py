"""Tokens and quotas over gRPC: nothing is served to who shows none, and no caller takes more than its share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from serving import Serving, StartServer, Talk, public

from del_client.access import Access
from del_client.transport import Transport
from del_codec.errors import AccessDenied, ArtifactError, ExhaustedError, InvalidValue
from del_codec.v1 import inference_pb2 as pb
from del_server.access import tokens as tokens_module
from del_server.access.token_file import change_tokens
from del_server.access.tokens import new_token
from del_server.service.listening import HEALTH, SERVICES, TOOLS

OPTIONS = {"max_new_tokens": 8, "ignore_eos": True}


def add(path: Path, name: str, quota: str = "default") -> str:
    text, token = new_token(name, quota, 1)
    change_tokens(path, lambda before: (*before, token))
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def shown(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def talk(serving: Serving, token: str) -> Talk:
    return Talk(serving.stub.Generate(metadata=shown(token)))


async def info(serving: Serving, token: str) -> pb.GetServerInfoResponse:
    response: pb.GetServerInfoResponse = await serving.stub.GetServerInfo(
        pb.GetServerInfoRequest(), metadata=shown(token)
    )
    return response


async def refused(call: Any) -> grpc.StatusCode:
    """The code that a call ended with; fails if it went well."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def methods() -> Iterator[tuple[str, bool]]:
    """Full names of all that a server offers, and whether anyone may call it."""
    for service in (*SERVICES, *TOOLS):
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", service.full_name == HEALTH


class TestTokens:
    async def test_no_method_but_health_is_there_for_who_shows_none(
        self, start_server: StartServer, path: Path
    ) -> None:
        add(path, "ada")
        async with start_server(tokens=path, channelz=True) as serving:
            for name, anyone in methods():
                call = serving.channel.stream_stream(name)()
                if anyone:
                    call.cancel()
                    continue
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(b"")
                    await call.done_writing()
                assert await refused(call.read()) is grpc.StatusCode.UNAUTHENTICATED, name
            health = health_pb2_grpc.HealthStub(serving.channel)
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1

    async def test_the_right_one_and_wrong_ones(self, start_server: StartServer, path: Path) -> None:
        ada, eve = add(path, "ada"), new_token("eve", "default", 1)[0]
        async with start_server(tokens=path) as serving:
            assert (await info(serving, ada)).model
            for token in ("", eve, ada[:-1], ada[:22] + "A" * 43, ada.upper()):
                assert await refused(info(serving, token)) is grpc.StatusCode.UNAUTHENTICATED
            basic = serving.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=(("authorization", ada),))
            assert await refused(basic) is grpc.StatusCode.UNAUTHENTICATED

    async def test_the_devices_transport_shows_it(self, start_server: StartServer, path: Path) -> None:
        ada = add(path, "ada")
        async with start_server(tokens=path) as serving:
            for token, served in ((ada, True), (None, False), (ada[:-1], False)):
                transport = Transport(f"127.0.0.1:{serving.port}", 5, access=Access(token=token))
                try:
                    if served:
                        assert (await transport.server_info()).model
                    else:
                        with pytest.raises(AccessDenied, match="show a token"):
                            await transport.server_info()
                finally:
                    await transport.close()

    async def test_a_withdrawn_one_is_no_good_on_an_open_stream_nor_on_a_new_one(
        self, start_server: StartServer, path: Path
    ) -> None:
        ada = add(path, "ada")
        async with start_server(tokens=path) as serving:
            stream = talk(serving, ada)
            await stream.ask(1, [public(5)])
            await stream.answer(1)
            change_tokens(path, lambda before: ())
            await stream.ask(2, [public(5)])
            assert (await stream.error(2)).reason == "ACCESS_DENIED"
            await stream.close()
            assert await refused(info(serving, ada)) is grpc.StatusCode.UNAUTHENTICATED

    async def test_an_expired_one_that_is_shown_again(
        self, start_server: StartServer, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = add(path, "ada")
        async with start_server(tokens=path) as serving:
            assert (await info(serving, ada)).model
            later = tokens_module.time.time() + 90_000
            monkeypatch.setattr(tokens_module.time, "time", lambda: later)
            assert await refused(info(serving, ada)) is grpc.StatusCode.UNAUTHENTICATED

    async def test_files_that_cannot_be_used_are_refused_at_start(self, start_server: StartServer, path: Path) -> None:
        with pytest.raises(ArtifactError, match="No such file"):
            async with start_server(tokens=path):
                pass
        add(path, "ada", quota="batch")
        with pytest.raises(InvalidValue, match="quota is 'batch'"):
            async with start_server(tokens=path):
                pass


def quotas(folder: Path, text: str) -> Path:
    path = folder / "quotas.toml"
    path.write_text(text)
    return path


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """Of a status's RetryInfo."""
    status = rpc_status.from_call(error)
    found = [detail for detail in status.details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
    retry = error_details_pb2.RetryInfo()
    found[0].Unpack(retry)
    return float(retry.retry_delay.ToTimedelta().total_seconds())


async def ask(stream: Talk, query_ids: Sequence[int]) -> None:
    for query_id in query_ids:
        await stream.ask(query_id, [public(5)], options=OPTIONS)
        await stream.answer(query_id)


class TestQuotas:
    async def test_queries(self, start_server: StartServer, path: Path, tmp_path: Path) -> None:
        ada, bob = add(path, "ada", "small"), add(path, "bob", "small")
        file = quotas(tmp_path, "[small]\nqueries_a_minute = 2\n")
        async with start_server(tokens=path, quotas=file) as serving:
            stream = talk(serving, ada)
            await ask(stream, [1, 2])
            await stream.ask(3, [public(5)])
            error = await stream.error(3)
            assert (error.code, error.reason) == (8, "QUOTA_EXCEEDED")
            assert 20_000 < error.retry_after_ms <= 30_000
            scoring = pb.ScoreRequest(segments=[public(5)], candidates=[pb.Candidate(token_ids=[6])])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await serving.stub.Score(scoring, metadata=shown(ada))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert 20 < retry_seconds(caught.value) <= 30
            other = talk(serving, bob)
            await ask(other, [1])
            assert serving.sample("refusals_total", reason="QUOTA_EXCEEDED") == 2
            await other.close()
            await stream.close()

    async def test_a_clock_set_back_or_ahead_opens_none(
        self, start_server: StartServer, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada, now = add(path, "ada", "small"), time.time()
        file = quotas(tmp_path, "[small]\nqueries_a_minute = 2\n")
        async with start_server(tokens=path, quotas=file) as serving:
            stream = talk(serving, ada)
            await ask(stream, [1, 2])
            for number, moved in enumerate((now - 400 * 86_400, now + 3600), start=3):
                monkeypatch.setattr(time, "time", lambda moved=moved: moved)
                await stream.ask(number, [public(5)])
                assert (await stream.error(number)).reason == "QUOTA_EXCEEDED"
            await stream.close()

    async def test_tokens_of_an_answer_that_ended_early_are_given_back(
        self, start_server: StartServer, path: Path, tmp_path: Path
    ) -> None:
        ada = add(path, "ada", "small")
        most = 4096 + 507
        file = quotas(tmp_path, f"[small]\ntokens_a_minute = {most}\n")
        async with start_server(tokens=path, quotas=file) as serving:
            stream = talk(serving, ada)
            await ask(stream, range(1, 31))
            options = {"max_new_tokens": 500, "ignore_eos": True}
            opened = range(101, 131)
            for query_id in opened:
                await stream.open(query_id, 1, options=options)
            assert (await stream.error(opened[-1])).reason == "QUOTA_EXCEEDED"
            charged = [query_id for query_id in opened[:-1] if not stream.replies[query_id].errors]
            assert 8 <= len(charged) < len(opened) - 1
            for query_id in charged:
                await stream.cancel(query_id)
            await stream.until(lambda: all(stream.replies[query_id].finish for query_id in charged))
            await stream.ask(200, [public(5)], options=options)
            await stream.answer(200)
            await stream.close()

    async def test_bytes(self, start_server: StartServer, path: Path, tmp_path: Path) -> None:
        ada = add(path, "ada", "small")
        file = quotas(tmp_path, f"[small]\nbytes_a_minute = {1 << 20}\n")
        async with start_server(tokens=path, quotas=file) as serving:
            stream = talk(serving, ada)
            await stream.send(1, padding=bytes(600_000))
            await stream.send(1, padding=bytes(600_000))
            await stream.ask(1, [public(5)])
            assert (await stream.error(1)).reason == "QUOTA_EXCEEDED"
            call = serving.stub.DownloadCodec(
                pb.DownloadCodecRequest(fingerprint=serving.fingerprint), metadata=shown(ada)
            )
            assert await refused(call.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await stream.close()

    async def test_streams(self, start_server: StartServer, path: Path, tmp_path: Path) -> None:
        ada, bob = add(path, "ada", "small"), add(path, "bob", "small")
        file = quotas(tmp_path, "[small]\nstreams = 2\n")
        async with start_server(tokens=path, quotas=file) as serving:
            streams = [talk(serving, ada) for _ in range(2)]
            for stream in streams:
                await ask(stream, [1])
            third = serving.stub.Generate(metadata=shown(ada))
            assert await refused(third.read()) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await ask(other := talk(serving, bob), [1])
            await streams.pop().close()
            await ask(again := talk(serving, ada), [1])
            for stream in (*streams, other, again):
                await stream.close()

    async def test_a_device_is_told_when_to_try_again(
        self, start_server: StartServer, path: Path, tmp_path: Path
    ) -> None:
        ada = add(path, "ada", "small")
        file = quotas(tmp_path, "[small]\nstreams = 1\n")
        async with start_server(tokens=path, quotas=file) as serving:
            await ask(stream := talk(serving, ada), [1])
            transport = Transport(f"127.0.0.1:{serving.port}", 5, access=Access(token=ada))
            with pytest.raises(ExhaustedError, match="as many as you may") as caught:
                await transport.server_info()
            assert caught.value.retry_after == 1
            await transport.close()
            await stream.close()

    async def test_one_that_contradicts_the_servers_limits_is_refused_at_start(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        with pytest.raises(InvalidValue, match="tokens_a_minute of quota default is 500"):
            async with start_server(quotas=quotas(tmp_path, "[default]\ntokens_a_minute = 500\n")):
                pass
