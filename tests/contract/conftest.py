"""A whole server in this process, over loopback, with the tiny model and codec."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from serving import Serving, StartServer

from del_codec.v1 import inference_pb2_grpc
from del_server.config import ServeConfig


@pytest.fixture
def start_server(tiny_model: Path, tiny_codec: Path) -> StartServer:
    """A context manager that serves; keyword arguments go to ServeConfig."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Serving]:
        defaults = {"model": str(tiny_model), "codecs": (tiny_codec,), "port": 0, "device": "cpu", "drain_seconds": 5.0}
        config = ServeConfig(**{**defaults, **options})
        from del_server.app import load, running  # not at the top: it must find what tests/conftest.py sets

        backend = load(config)
        async with AsyncExitStack() as server:
            port = await server.enter_async_context(running(backend, config))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Serving(backend, inference_pb2_grpc.InferenceServiceStub(channel), channel, server.aclose, port)

    return start
