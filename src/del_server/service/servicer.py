"""InferenceService over grpc.aio."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Never

from del_codec.errors import DelError, UnavailableError
from del_codec.v1 import inference_pb2 as pb
from del_server.backend import Backend
from del_server.service import scoring
from del_server.service.aborting import Context, abort
from del_server.service.guard import VISIT
from del_server.service.messages import GRPC_PREFIX, info_to_pb
from del_server.service.stream import UNREAD_SECONDS, Stream, Unread
from del_server.status import Draining, problem_of

CHUNK_BYTES = 1 << 16


class InferenceService:
    """See protos/del_codec/v1/inference.proto.

    stream_age: seconds until a stream takes no more queries; 0: no bound.
    """

    def __init__(self, backend: Backend, stream_age: float) -> None:
        self._backend, self._stream_age = backend, stream_age
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Take no new queries, and end each stream when its last one has ended."""
        self._draining.set()

    async def Generate(self, request_iterator: AsyncIterator[pb.GenerateRequest], context: Context) -> None:  # noqa: N802
        """Answer the queries of one stream; when it breaks, their tasks are cancelled, and so are their generations."""
        try:
            with contextlib.ExitStack() as left:
                async with asyncio.TaskGroup() as tasks:
                    stream = Stream(self._backend, VISIT.get(), context.write, tasks)
                    left.callback(stream.abandon)
                    reader = tasks.create_task(stream.read(request_iterator))
                    ender = tasks.create_task(self._end_in_time(stream, reader))
                    await asyncio.wait({reader})
                    ender.cancel()
        except* Unread:
            unread = f"nothing of the answers was taken for {UNREAD_SECONDS:g} s; read, and send the same bytes again"
            await self._refuse(context, UnavailableError(unread))

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """Judge candidates after a prompt; when the call ends early, so does its work in the engine."""
        try:
            if self._draining.is_set():
                raise Draining("the server is shutting down; send the same bytes to another one")
            return await scoring.answer(request, self._backend, VISIT.get())
        except Exception as error:
            await self._refuse(context, error)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:  # noqa: N802, ARG002
        """What this server serves."""
        return info_to_pb(self._backend)

    async def DownloadCodec(  # noqa: N802
        self, request: pb.DownloadCodecRequest, context: Context
    ) -> AsyncIterator[pb.DownloadCodecResponse]:
        """The device's half of a codec, in chunks."""
        meter = VISIT.get().meter
        try:
            meter.check_bytes()
            data = self._backend.codec(request.fingerprint.hex()).device_bytes
        except DelError as error:
            await self._refuse(context, error)
        for start in range(0, len(data), CHUNK_BYTES):
            response = pb.DownloadCodecResponse(chunk=data[start : start + CHUNK_BYTES])
            meter.count(response.ByteSize() + GRPC_PREFIX)
            yield response

    async def _refuse(self, context: Context, error: Exception) -> Never:
        problem = problem_of(error)
        self._backend.metrics.refuse(problem)
        await abort(context, problem)

    async def _end_in_time(self, stream: Stream, reader: asyncio.Task[None]) -> None:
        """End a stream after its last query, once the server drains or the stream is of age."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stream_age * random.uniform(0.9, 1.0) or None):
                await self._draining.wait()
        stream.leaving = True
        await stream.idle.wait()
        reader.cancel()
