"""InferenceService over grpc.aio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Never

import grpc
from grpc_status import rpc_status

from del_codec.errors import DelError
from del_codec.v1 import inference_pb2 as pb
from del_server.backend import Backend
from del_server.service import scoring
from del_server.service.messages import info_to_pb, status_to_pb
from del_server.service.stream import Stream
from del_server.status import Draining, Problem, problem_of

CHUNK_BYTES = 1 << 16
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService:
    """See protos/del_codec/v1/inference.proto."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Take no new queries, and end each stream when its last one has ended."""
        self._draining.set()

    async def Generate(self, request_iterator: AsyncIterator[pb.GenerateRequest], context: Context) -> None:  # noqa: N802
        """Answer the queries of one stream; when it breaks, their tasks are cancelled, and so are their generations."""
        async with asyncio.TaskGroup() as tasks:
            stream = Stream(self._backend, self._draining, context.write, tasks)
            reader = tasks.create_task(stream.read(request_iterator))
            drainer = tasks.create_task(self._end_when_drained(stream, reader))
            await asyncio.wait({reader})
            drainer.cancel()

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """Judge candidates after a prompt; when the call ends early, so does its work in the engine."""
        try:
            if self._draining.is_set():
                raise Draining("the server is shutting down; send the same bytes to another one")
            return await scoring.answer(request, self._backend)
        except Exception as error:
            await self._refuse(context, error)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:  # noqa: N802, ARG002
        """What this server serves."""
        return info_to_pb(self._backend)

    async def DownloadCodec(  # noqa: N802
        self, request: pb.DownloadCodecRequest, context: Context
    ) -> AsyncIterator[pb.DownloadCodecResponse]:
        """The device's half of a codec, in chunks."""
        try:
            data = self._backend.codec(request.fingerprint.hex()).device_bytes
        except DelError as error:
            await self._refuse(context, error)
        for start in range(0, len(data), CHUNK_BYTES):
            yield pb.DownloadCodecResponse(chunk=data[start : start + CHUNK_BYTES])

    async def _refuse(self, context: Context, error: Exception) -> Never:
        problem = problem_of(error)
        self._backend.metrics.refuse(problem)
        await abort(context, problem)

    async def _end_when_drained(self, stream: Stream, reader: asyncio.Task[None]) -> None:
        await self._draining.wait()
        await stream.idle.wait()
        reader.cancel()


async def abort(context: Context, problem: Problem) -> Never:
    """End a unary call with a status and google.rpc's details."""
    status = rpc_status.to_status(status_to_pb(problem))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise RuntimeError("abort raises")
