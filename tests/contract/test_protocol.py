"""An old side and a new one: a clear error on either, no hang, and none where they can talk."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from serving import StartServer, public

from del_client.transport import Transport, connection
from del_client.transport.messages import server_info
from del_codec import protocol
from del_codec.errors import MismatchError
from del_codec.v1 import inference_pb2 as pb

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()


async def test_a_client_of_another_version_is_told_so(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "NEWEST", 2)
    async with start_server() as serving:
        transport = Transport(f"127.0.0.1:{serving.port}", 5)
        with pytest.raises(MismatchError, match=r"client speaks version '2' of the wire, this server 1 to 1"):
            await transport.server_info()
        await transport.close()


@pytest.mark.parametrize("named", ["0", "2", "99999", "9" * 1000, "-1", "one", "1.0"])
async def test_every_call_is_refused_and_none_hangs(start_server: StartServer, named: str) -> None:
    async with start_server() as serving:
        metadata = ((protocol.METADATA_KEY, named),)
        for call in (
            serving.stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata),
            serving.stub.Score(pb.ScoreRequest(), metadata=metadata),
            serving.stub.Generate(metadata=metadata).read(),
            serving.stub.DownloadCodec(pb.DownloadCodecRequest(), metadata=metadata).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert len(caught.value.details() or "") < 200


async def test_one_that_names_none_is_of_the_first(start_server: StartServer) -> None:
    async with start_server() as serving:
        info = await serving.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (info.oldest_protocol, info.newest_protocol) == (protocol.OLDEST, protocol.NEWEST)
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        await talk.answer(1)
        await talk.close()


@pytest.mark.parametrize(("oldest", "newest"), [(0, 0), (1, 1), (1, 7)])
def test_servers_that_a_client_can_talk_to(oldest: int, newest: int) -> None:
    server_info(pb.GetServerInfoResponse(oldest_protocol=oldest, newest_protocol=newest))


def test_a_server_of_another_version() -> None:
    with pytest.raises(MismatchError, match="server speaks versions 2 to 3 of the wire, this client 1"):
        server_info(pb.GetServerInfoResponse(oldest_protocol=2, newest_protocol=3))


def test_the_page_names_the_versions() -> None:
    assert f"version {protocol.NEWEST} of the wire" in PAGE
    assert f"`{protocol.METADATA_KEY}`" in PAGE
