"""A stream that takes no more queries: the client's next ones go over another, its earlier ones go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from client_fakes import FakeServer, Serving, TinyCodec, hello, make_codec

from del_client.query import GenerationOptions, Limits, Query
from del_client.transport import Transport
from del_codec.errors import UnavailableError
from del_codec.frame import PublicSegment
from del_codec.v1 import inference_pb2 as pb

QUERY = Query("", (PublicSegment((5,)),), GenerationOptions(max_new_tokens=7))
NO_LIMITS = Limits(0, 0, 0, 0, 0)


@pytest.fixture
def codec(tmp_path: Path) -> TinyCodec:
    return make_codec(tmp_path)


async def tokens(transport: Transport) -> int:
    return len([event async for event in transport.generate(QUERY, NO_LIMITS)]) - 1


async def test_the_next_queries_take_another_and_the_earlier_ones_go_on(codec: TinyCodec) -> None:
    go_on = asyncio.Event()

    async def reply(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        if len(server.streams) == 1 and query_id == 2:
            error = pb.QueryError(code=14, reason="SERVER_DRAINING", message="no more", retry_after_ms=100)
            yield pb.GenerateResponse(query_id=query_id, error=error)
            return
        if len(server.streams) == 1:
            await go_on.wait()
        async for response in hello(query_id, received):
            yield response

    server = FakeServer(codec, reply=reply)
    async with Serving(server) as address:
        transport = Transport(address, 5)
        first = asyncio.create_task(tokens(transport))
        while not server.streams or not server.streams[0]:
            await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError, match="no more") as caught:
            await tokens(transport)
        assert caught.value.retry_after == 0.1
        assert await tokens(transport) == 2
        assert await tokens(transport) == 2
        assert len(server.streams) == 2
        assert not first.done()
        go_on.set()
        assert await first == 2
        await transport.close()


async def test_what_costs_nothing_to_ask_twice_is_asked_again_where_a_server_goes_away(codec: TinyCodec) -> None:
    asked = []

    async def refuse_twice(context: grpc.aio.ServicerContext) -> None:
        asked.append(dict(context.invocation_metadata()))
        if len(asked) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    async with Serving(FakeServer(codec, before_info=refuse_twice)) as address:
        transport = Transport(address, 5)
        assert (await transport.server_info()).model == "tiny"
        await transport.close()
    assert len(asked) == 3
    assert asked[-1]["grpc-previous-rpc-attempts"] == "2"


async def test_a_call_that_the_servers_grpc_dropped_may_be_sent_again(codec: TinyCodec) -> None:
    """Its status is CANCELLED, though nobody here cancelled it."""

    class Dropping(FakeServer):
        async def Generate(self, request_iterator, context):
            await context.abort(grpc.StatusCode.CANCELLED, "")

    async def drop(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.CANCELLED, "")

    async with Serving(Dropping(codec, before_info=drop)) as address:
        transport = Transport(address, 5)
        for call in (tokens(transport), transport.server_info()):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert caught.value.retry_after == 0
        await transport.close()
