"""When each message of a query reaches a server: what who watches a connection sees of a device's pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio

from del_client.query import Limits, Query
from del_client.transport import Transport
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

_CONNECT_SECONDS = 5.0


class Arrivals(rpc.InferenceServiceServicer):
    """Answers a query with a finish as soon as it is whole. times: of the latest query's messages, ns."""

    def __init__(self) -> None:
        self.times: list[int] = []

    async def Generate(self, requests: AsyncIterator[pb.GenerateRequest], context: Any) -> None:  # noqa: N802
        """One query after the other."""
        async for request in requests:
            self.times.append(time.perf_counter_ns())
            if request.open.end or request.HasField("end"):
                finish = pb.FinishedQuery(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(), timings=pb.Timings())
                await context.write(pb.GenerateResponse(query_id=request.query_id, finish=finish))


@contextmanager
def arrivals(limits: Limits) -> Iterator[Callable[[Query], list[int]]]:
    """Sends a query over gRPC, on one warm stream, and tells when each of its messages came, ns."""
    service = Arrivals()
    with asyncio.Runner() as runner:
        server, transport = runner.run(_start(service))

        def send(query: Query) -> list[int]:
            service.times.clear()
            runner.run(_ask(transport, query, limits))
            return list(service.times)

        yield send
        runner.run(_stop(server, transport))


async def _start(service: Arrivals) -> tuple[grpc.aio.Server, Transport]:
    server = grpc.aio.server()
    rpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, Transport(f"127.0.0.1:{port}", _CONNECT_SECONDS)


async def _ask(transport: Transport, query: Query, limits: Limits) -> None:
    async for _ in transport.generate(query, limits):
        pass


async def _stop(server: grpc.aio.Server, transport: Transport) -> None:
    await transport.close()
    await server.stop(None)
