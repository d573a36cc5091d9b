"""Bare grpc.aio with the messages of a query and its answer, and nothing behind them: a measure for the layers above.

Run as a program it serves: `python -m benchmarks.echo`. Each query gets as many deltas of one token as it asks for,
made beforehand, and a finish.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

DELTA = pb.TokenDelta(token_ids=[33662], text=" hello")


class EchoService(rpc.InferenceServiceServicer):
    """Generate alone."""

    async def Generate(self, requests: AsyncIterator[pb.GenerateRequest], context: Any) -> None:  # noqa: N802
        """One query after the other."""
        async for request in requests:
            delta = pb.GenerateResponse(query_id=request.query_id, delta=DELTA)
            for _ in range(request.open.options.max_new_tokens):
                await context.write(delta)
            finish = pb.FinishedQuery(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(), timings=pb.Timings())
            await context.write(pb.GenerateResponse(query_id=request.query_id, finish=finish))


async def _serve() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    rpc.add_InferenceServiceServicer_to_server(EchoService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo ready on 127.0.0.1:{port}", flush=True)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
