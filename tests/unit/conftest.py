"""A client, the recording server that it asks, and their codec; a test file may have its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_fakes import FakeServer, Serving, TinyCodec, make_codec
from client_talk import connect

from del_client import AsyncClient


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TinyCodec:
    return make_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture
def server(codec: TinyCodec) -> FakeServer:
    return FakeServer(codec)


@pytest.fixture
async def client(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with Serving(server) as address, connect(address, codec, tmp_path) as client:
        yield client
