"""A thousand devices that join at once: each has its own answer, or is told that there is no room for it yet."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from test_hostile_client import add

from benchmarks.stub import stub_tokens, stubbed
from del_client import Access
from del_client.query import GenerationOptions, Limits, Query, TokenDelta
from del_client.transport import Transport
from del_codec.errors import ExhaustedError
from del_codec.frame import PublicSegment
from del_server.access.quotas import STREAMS_OF_ONE
from del_server.backend import Backend
from del_server.config import ServeConfig

DEVICES, TOKENS, CALLERS = 1000, 8, 4
NO_LIMITS = Limits(context_tokens=0, prompt_tokens=0, new_tokens=0, message_bytes=0, segments=0)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _files_enough() -> Iterator[None]:
    """Both ends of every connection, and as many again for what the server keeps for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5 * DEVICES:
        pytest.skip(f"a process may have {hard} open files here: {5 * DEVICES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 5 * DEVICES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def joined(model: Path, codec: Path, tokens: list[str], file: Path) -> AsyncIterator[list[Transport]]:
    """The devices, which have yet to say something; in the end the server has nothing left of them."""
    from del_server.app import load, running

    config = ServeConfig(model=str(model), codecs=(codec,), port=0, device="cpu", tokens=file, drain_seconds=5.0)
    backend: Backend = stubbed(load(config))
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(running(backend, config))
        devices = []
        for number in range(DEVICES):
            access = Access(token=tokens[number % len(tokens)])
            devices.append(Transport(f"127.0.0.1:{port}", 120.0, access=access))
            stack.push_async_callback(devices[-1].close)
        yield devices
        assert backend.admission.taken == 0
        assert backend.engine.load().running == 0


async def join(device: Transport, number: int) -> bool:
    """Ask, and check that the answer is that of this device; False if there was no room."""
    prompt = PublicSegment(tuple(range(3, 4 + number % 50)))
    query = Query("", (prompt,), GenerationOptions(max_new_tokens=TOKENS, seed=number))
    ids: list[int] = []
    try:
        info = await device.server_info()
        async for event in device.generate(query, NO_LIMITS):
            ids += event.token_ids if isinstance(event, TokenDelta) else ()
    except ExhaustedError as refused:
        if ids or not refused.retry_after:
            raise
        return False
    assert info.codecs
    assert ids == stub_tokens(number, prompt.tokens, TOKENS, 259)
    return True


async def test_a_thousand_of_several_callers_are_answered(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    tokens = [add(file, f"caller{number}") for number in range(CALLERS)]
    async with joined(tiny_model, tiny_codec, tokens, file) as devices:
        assert all(await asyncio.gather(*(join(device, number) for number, device in enumerate(devices))))


async def test_of_a_thousand_of_one_caller_the_rest_is_answered_later(
    tiny_model: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    """A device's call stays open after its answer: so many calls of one caller, and no more."""
    file = tmp_path / "tokens.json"
    async with joined(tiny_model, tiny_codec, [add(file, "one")], file) as devices:
        found = await asyncio.gather(*(join(device, number) for number, device in enumerate(devices)))
        assert STREAMS_OF_ONE / 2 < sum(found) <= STREAMS_OF_ONE
        for device, served in zip(devices, found, strict=True):
            if served:
                await device.close()
        rest = [number for number, served in enumerate(found) if not served]
        assert all(await asyncio.gather(*(join(devices[number], number) for number in rest)))
