"""A whole server in this process, over loopback, with the tiny model and codec; and engines with faulty models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from engine_faults import Faults, StartEngine
from serving import Serving, StartServer
from transformers import AutoModelForCausalLM

from del_codec.v1 import inference_pb2_grpc
from del_server.config import ServeConfig
from del_server.engine.base import Engine
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine


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


@pytest.fixture
def start_transformers(tiny_model: Path) -> StartEngine:
    """See test_engine.start_engine."""

    @asynccontextmanager
    async def start(**bounds: Any) -> AsyncIterator[tuple[Engine, Faults]]:
        faults = Faults(AutoModelForCausalLM.from_pretrained(tiny_model))
        engine = TransformersEngine(faults.model, EngineConfig(**bounds))
        await engine.start()
        try:
            yield engine, faults
        finally:
            faults.open.set()
            await engine.stop()

    return start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept_vllm(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, Any]]:
    """A model in a vLLM that all tests of a module share."""
    from vllm_faults import Adapters, Kept, VllmFaults, Wide

    wide = Wide(wide_model, VllmFaults(tmp_path_factory.mktemp("faults")))
    llm = await wide.launch(Adapters())
    yield wide, Kept(llm)
    llm.shutdown()


@pytest.fixture
def start_vllm(kept_vllm: tuple[Any, Any]) -> StartEngine:
    """See test_engine.start_engine."""
    wide, llm = kept_vllm

    @asynccontextmanager
    async def start(**bounds: Any) -> AsyncIterator[tuple[Engine, Any]]:
        engine = wide.engine(llm, **bounds)
        await engine.start()
        try:
            yield engine, wide.faults
        finally:
            wide.faults.open.set()
            await engine.stop()

    return start
