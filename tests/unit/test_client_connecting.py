"""Connecting and asking, with an event loop and without: the codec, the ledger, threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from client_fakes import DIM, FakeServer, Serving, ServingThread, TinyCodec, client_arguments, make_codec
from client_talk import connect, endless, private, sent

from del_client import AsyncClient, Client, Ledger
from del_codec.errors import InvalidValue, MismatchError, UnavailableError
from del_codec.noise import NoiseSetting

SETTING = NoiseSetting.from_mu(5, DIM, 2)


class TestBlocking:
    def test_the_same_without_an_event_loop(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            assert client.info.model == "tiny"
            answer = client.generate("hi", mu=5)
            assert "".join(delta.text for delta in answer) == answer.text == "hello"
            talk = client.conversation()
            for _ in range(2):
                for _ in talk.generate("again"):
                    pass
            assert client.embed_report("hi").private_tokens == 2
            assert [len(private(sent(server, query_id))) for query_id in (1, 2, 3)] == [1, 1, 2]

    def test_leaving_the_loop_cancels(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        server.reply = endless
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            for _ in client.generate("hi"):
                break
            for _ in client.generate("hi"):
                break
            assert server.requests(1)[-1].HasField("cancel")

    def test_errors_come_out_as_they_are(self, codec: TinyCodec, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no server answers"), Client("127.0.0.1:1"):
            pass
        with ServingThread(FakeServer(codec)) as address:
            client = Client(address, **client_arguments(codec, tmp_path))
            with client, pytest.raises(InvalidValue, match="mu is -1"):
                list(client.generate("hi", mu=-1))
            with pytest.raises(RuntimeError, match="closed"):
                list(client.generate("hi"))

    def test_one_that_was_not_entered(self) -> None:
        for client in (Client("127.0.0.1:1"), AsyncClient("127.0.0.1:1")):
            with pytest.raises(RuntimeError, match="enter the client first"):
                client.generate("hi")
            assert not hasattr(client, "colour")

    def test_threads_may_share_one(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            texts: list[str] = []

            def ask() -> None:
                texts.append("".join(delta.text for delta in client.generate("hi")))

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert texts == ["hello"] * 8

    async def test_an_asynchronous_answer_is_not_iterated_with_for(self, client: AsyncClient) -> None:
        with pytest.raises(TypeError, match="async for"):
            list(client.generate("hi"))

    def test_a_ledger_of_the_callers_own_stays_open(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        options = client_arguments(codec, tmp_path)
        with Ledger(tmp_path / "own.sqlite3") as ledger, ServingThread(server) as address:
            for _ in range(2):
                with Client(address, **{**options, "ledger": ledger}) as client:
                    list(client.generate("hi"))
        assert not (tmp_path / "ledger.sqlite3").exists()


class TestConnecting:
    async def test_the_codec_is_fetched_once(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        async with Serving(server) as address:
            for _ in range(2):
                async with connect(address, codec, tmp_path) as client:
                    assert client.table.fingerprint == codec.fingerprint.hex()
        assert server.downloads == 1

    async def test_a_codec_that_is_not_what_was_announced(self, codec: TinyCodec, tmp_path: Path) -> None:
        server = FakeServer(codec, download=codec.data[:-1] + bytes([codec.data[-1] ^ 1]))
        async with Serving(server) as address:
            with pytest.raises(MismatchError, match="nothing was sent"):
                async with connect(address, codec, tmp_path):
                    pass
        assert server.streams == []

    async def test_a_codec_for_another_tokenizer(self, codec: TinyCodec, tmp_path: Path) -> None:
        other = make_codec(tmp_path / "other", tokenizer_sha256="1" * 64)
        async with Serving(FakeServer(other)) as address:
            with pytest.raises(MismatchError, match="--tokenizer FILE"):
                async with connect(address, codec, tmp_path):
                    pass

    async def test_a_server_without_a_codec(self, codec: TinyCodec, tmp_path: Path) -> None:
        async with Serving(FakeServer(None)) as address:
            with pytest.raises(MismatchError, match="without a codec"):
                async with connect(address, codec, tmp_path):
                    pass

    async def test_no_server(self, codec: TinyCodec, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no server answers"):
            async with connect("127.0.0.1:1", codec, tmp_path):
                pass
