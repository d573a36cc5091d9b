"""Transport: one server over gRPC.

One Generate stream, opened when first needed and again after it broke, carries all queries of a client, told apart by
id. Errors come out as those of del_codec.errors. Knows nothing of prompts, tables, noise or what is private.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable

import grpc
import grpc.aio

from del_client.access import Access
from del_client.query import Event, Limits, Metadata, Query, Question, Scores, ServerInfo, Traffic
from del_client.transport import messages
from del_client.transport.connection import call_metadata, open_channel
from del_client.transport.events import Events
from del_client.transport.status import query_error, rpc_error
from del_codec.errors import DelError, UnavailableError
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub

_GOODBYE_SECONDS = 1.0
# The reason with which a server refuses a query on a stream that takes no more of them, while others may.
_LEAVING = "SERVER_DRAINING"


class Transport:
    """The way to `server`, "host:port" or several of them with commas between.

    connect_seconds: the longest wait for a connection, and for a server's first answer. keepalive_seconds: see
    open_channel. Raises InvalidValue for an address that is none.
    """

    def __init__(
        self, server: str, connect_seconds: float, keepalive_seconds: float = 20.0, access: Access | None = None
    ) -> None:
        self._access = access or Access()
        self._channel = open_channel(server, connect_seconds, keepalive_seconds, self._access)
        self._metadata = call_metadata(self._access)
        self._server = server
        self._connect_seconds = connect_seconds
        self._stall_seconds = 3 * keepalive_seconds
        self._stub = InferenceServiceStub(self._channel)
        self._stream: _Stream | None = None
        self._former: list[_Stream] = []
        self._closed = False

    async def close(self) -> None:
        """End the stream and the channel."""
        self._closed = True
        for stream in (*self._former, *([self._stream] if self._stream else [])):
            await stream.close()
        await self._channel.close(grace=None)

    async def server_info(self) -> ServerInfo:
        """What the server serves. Raises UnavailableError at once where nothing answers."""
        try:
            response = await self._stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=self._connect_seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise rpc_error(error, self._server) from None
        return messages.server_info(response)

    async def download(self, fingerprint: str) -> AsyncGenerator[bytes]:
        """The chunks of a codec's device half, over a connection of their own.

        Raises UnavailableError where none comes for three times keepalive_seconds, or the connection is lost.
        """
        async with open_channel(self._server, self._connect_seconds, None, self._access) as channel:
            request = pb.DownloadCodecRequest(fingerprint=bytes.fromhex(fingerprint))
            call = InferenceServiceStub(channel).DownloadCodec(request, metadata=self._metadata)
            try:
                while isinstance(response := await self._in_time(call.read()), pb.DownloadCodecResponse):
                    yield response.chunk
            except grpc.aio.AioRpcError as error:
                raise rpc_error(error, self._server) from None
            finally:
                call.cancel()

    async def _in_time(self, work: Awaitable[object]) -> object:
        try:
            async with asyncio.timeout(self._stall_seconds):
                return await work
        except TimeoutError:
            raise UnavailableError(
                f"{self._server} sent nothing of its codec for {self._stall_seconds:g} s: try again", 0.0
            ) from None

    def wire_bytes(self, query: Query, limits: Limits) -> int:
        """Bytes of the messages that a query takes, with gRPC's prefix; nothing is sent."""
        return sum(messages.wire_size(request) for request in messages.requests(1, query, limits.message_bytes))

    async def generate(
        self, query: Query, limits: Limits, traffic: Traffic | None = None, metadata: Metadata = ()
    ) -> AsyncGenerator[Event]:
        """Send a query once and yield its deltas and, last, its Finish. Leaving the iterator cancels the query.

        `traffic` goes on counting where it stands. metadata: where there is some, the query has a stream of its own,
        which carries it. Raises InvalidValue, before anything is sent, for what the limits
        exclude, and any error of the server's.
        """
        limits.check(query.prompt_tokens, len(query.segments), query.options)
        traffic = traffic or Traffic()
        if self._closed:
            raise UnavailableError(f"the connection to {self._server} was closed")
        stream = self._opened(metadata) if metadata else self._standing()
        query_id, events = stream.register()
        ended = False
        try:
            for request in messages.requests(query_id, query, limits.message_bytes):
                if events.any:
                    break  # refused already: send no more of it
                traffic.sent += messages.wire_size(request)
                await stream.write(request)
            while not ended:
                response = await events.next()
                event = response.WhichOneof("event")
                if event == "delta":
                    yield messages.token_delta(response.delta)
                    continue
                ended = True
                if event == "error":
                    stream.leaving |= response.error.reason == _LEAVING
                    raise query_error(response.error)
                yield messages.finish(response.finish, traffic.sent)
        finally:
            stream.forget(query_id)
            if not ended:
                await stream.cancel(query_id)
            if metadata:
                await stream.close()

    def _standing(self) -> _Stream:
        """A stream that takes queries: the latest one, or another where that one broke or takes no more."""
        if self._stream is not None and not (self._stream.failure or self._stream.leaving):
            return self._stream
        self._former = [stream for stream in self._former if not stream.failure]
        if self._stream is not None and not self._stream.failure:
            self._former.append(self._stream)  # its other queries go on
        self._stream = self._opened()
        return self._stream

    def _opened(self, metadata: Metadata = ()) -> _Stream:
        return _Stream(self._stub.Generate(metadata=(*self._metadata, *metadata)), self._server)

    async def score(self, question: Question, metadata: Metadata = ()) -> Scores:
        """Ask a question once; cancelling the wait ends its work on the server. Raises any error of the server's."""
        request = messages.score_request(question)
        try:
            response = await self._stub.Score(request, metadata=(*self._metadata, *metadata))
        except grpc.aio.AioRpcError as error:
            raise rpc_error(error, self._server) from None
        return messages.scores(response, question, messages.wire_size(request))


class _Stream:
    """One Generate call: writes in turn, and a reader that hands each response to the query that it is for."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.GenerateRequest, pb.GenerateResponse], server: str) -> None:
        self._call = call
        self._server = server
        self._ids = itertools.count(1)
        self._events: dict[int, Events] = {}
        self._writing = asyncio.Lock()
        self.failure: DelError | None = None
        self.leaving = False
        self._reader = asyncio.create_task(self._read())

    def register(self) -> tuple[int, Events]:
        """A new query's id and its responses; a reader that lags by UNREAD holds the stream up."""
        query_id = next(self._ids)
        self._events[query_id] = Events()
        return query_id, self._events[query_id]

    def forget(self, query_id: int) -> None:
        """Drop what still comes for a query."""
        self._events.pop(query_id).drop()

    async def write(self, request: pb.GenerateRequest) -> None:
        """Send one message, after those that wait already."""
        # Cancelled inside of grpc's write, a task would take the whole call down, with everyone's queries.
        failure = await asyncio.shield(self._write(request))
        if failure is not None:
            raise failure

    async def _write(self, request: pb.GenerateRequest) -> DelError | None:
        async with self._writing:
            try:
                await self._call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
                await asyncio.wait([self._reader], timeout=_GOODBYE_SECONDS)
                return self.failure or self._closed()
        return None

    async def cancel(self, query_id: int) -> None:
        """Tell the server to stop a query, if the stream still stands."""
        if self.failure is None:
            with contextlib.suppress(DelError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self.write(pb.GenerateRequest(query_id=query_id, cancel=pb.CancelQuery()))

    async def close(self) -> None:
        """Half-close, so that the server sees an orderly end; break off if it doesn't answer."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._call.done_writing()
                await asyncio.shield(self._reader)
        self._call.cancel()
        self._reader.cancel()  # it may wait for room in an answer that nobody reads
        await asyncio.wait([self._reader])

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"the stream to {self._server} was closed")

    async def _read(self) -> None:
        try:
            while isinstance(response := await self._call.read(), pb.GenerateResponse):
                events = self._events.get(response.query_id)
                if events is not None and response.WhichOneof("event"):
                    if events.full:
                        await events.room()
                    events.put(response)
            self.failure = UnavailableError(f"{self._server} closed the stream: send the prompt again", 0.0)
        except grpc.aio.AioRpcError as error:
            self.failure = rpc_error(error, self._server)
        except asyncio.CancelledError:
            self.failure = self._closed()
        for events in self._events.values():
            events.fail(self.failure)
