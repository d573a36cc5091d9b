"""The queries of one Generate call. An error ends its query and leaves the others alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Never

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

from del_codec.errors import DelError, InvalidValue
from del_codec.v1 import inference_pb2 as pb
from del_server.access.metering import Charge
from del_server.access.visit import Visit
from del_server.backend import Backend
from del_server.engine.base import Reason
from del_server.query import Query
from del_server.service.journal import Journal
from del_server.service.messages import (
    GRPC_PREFIX,
    count_itself,
    finish_to_pb,
    opening_from_pb,
    problem_to_pb,
    segment_from_pb,
)
from del_server.service.shaping import Outlet, Shaping
from del_server.status import Code, Draining, Problem, QueryIdInUse, TooManyQueries, UnknownQuery, problem_of

logger = logging.getLogger(__name__)

# A client may have sent some of a prompt before it learns that its query was refused.
REMEMBERED = 256
# A device that takes nothing for so long is let go, for its unsent answers hold places that others wait for.
UNREAD_SECONDS = 60.0
Write = Callable[[pb.GenerateResponse], Awaitable[None]]


class Unread(Exception):
    """A client takes nothing of what it is sent: its call must end."""


@dataclass(slots=True)
class _Entry:
    """An unfinished query of a stream; `answer` once its prompt has ended."""

    query: Query
    shaping: Shaping
    charge: Charge
    answer: asyncio.Task[None] | None = None


class Stream:
    """The unfinished queries of one call, and the way of their responses.

    idle: set while there are none. leaving: take no more of them.
    """

    def __init__(self, backend: Backend, visit: Visit, write: Write, tasks: asyncio.TaskGroup) -> None:
        self._backend, self._visit, self._tasks = backend, visit, tasks
        self._journal = Journal(visit.caller.name)
        self._write, self._writing = write, asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._unsent, self._taken = 0, 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._entries: dict[int, _Entry] = {}
        # Ids that were refused before their prompt ended: what the client had already sent of it is passed over.
        self._refused: dict[int, None] = {}
        self.leaving = False
        self.idle = asyncio.Event()
        self.idle.set()

    async def read(self, requests: AsyncIterator[pb.GenerateRequest]) -> None:
        """Take requests until the client closes its side."""
        most = self._backend.limits.message_bytes
        async for request in requests:
            size = request.ByteSize()
            self._visit.meter.count(size + GRPC_PREFIX)
            await self._visit.pace()
            try:
                if size > most:
                    raise InvalidValue("message", f"{size} bytes", f"cut segments so that a message has at most {most}")
                await self._take(request, size)
            except DelError as error:
                await self._refuse(request.query_id, error, ended=request.HasField("end") or request.open.end)
            finally:
                entry = self._entries.get(request.query_id)
                bits = entry.query.prompt.bits if entry else "0"
                self._backend.metrics.wire_bytes["received", bits].inc(size + GRPC_PREFIX)
        for query_id in [query_id for query_id, entry in self._entries.items() if entry.answer is None]:
            missing = InvalidValue("end", "missing", "end a prompt before closing the stream")
            await self._refuse(query_id, missing, ended=True)

    def abandon(self) -> None:
        """Free what the call's queries hold that its end left open: prompts that were not ended, or not begun upon."""
        if self._watch is not None:
            self._watch.cancel()
        for query_id, entry in list(self._entries.items()):
            self._close(query_id, entry, "abandoned")

    async def _take(self, request: pb.GenerateRequest, size: int) -> None:
        query_id, event = request.query_id, request.WhichOneof("event")
        if event is None:
            if len(UnknownFieldSet(request)):
                raise InvalidValue("event", "unknown", "this server knows open, segments, end and cancel")
            return
        if event == "open":
            self._open(query_id, request.open)
        entry = self._entries.get(query_id)
        if entry is None:
            self._pass_over(query_id, event)
            return
        entry.query.received_bytes += size + GRPC_PREFIX
        if event == "cancel":
            entry.query.cancel()
            if entry.answer is None:
                await self._finish(query_id, entry, Reason.CANCELLED)
        elif entry.answer is not None:
            raise InvalidValue("event", event, "the prompt has ended; only cancel may follow")
        elif event == "open":
            self._add(entry, request.open.segments, size)
            if request.open.end:
                self._end(query_id, entry)
        elif event == "segments":
            self._add(entry, request.segments.segments, size)
        elif event == "end":
            self._end(query_id, entry)

    def _open(self, query_id: int, message: pb.OpenQuery) -> None:
        if query_id in self._entries:
            raise QueryIdInUse("query_id", query_id, "use an id that no unfinished query of the stream has")
        self._refused.pop(query_id, None)
        if self.leaving:
            raise Draining("this stream takes no more queries; send the same bytes over another one")
        most = self._backend.limits.queries_per_stream
        if len(self._entries) >= most:
            raise TooManyQueries(f"the stream has {most} unfinished queries; wait for one or open another stream")
        shaping = Shaping.from_pb(message.shaping)
        query = Query(opening_from_pb(message, self._backend.limits), self._backend, self._visit.caller.name)
        self._entries[query_id] = _Entry(query, shaping, self._visit.query(query.most_tokens))
        self.idle.clear()

    def _add(self, entry: _Entry, segments: Iterable[pb.Segment], size: int) -> None:
        entry.charge.hold(size)
        for index, segment in enumerate(segments):
            entry.query.add(segment_from_pb(segment, index))

    def _end(self, query_id: int, entry: _Entry) -> None:
        entry.query.end()
        entry.answer = self._tasks.create_task(self._answer(query_id, entry))

    def _pass_over(self, query_id: int, event: str) -> None:
        """What may come for a query that is not open: the rest of a refused prompt, and a cancel that met its end."""
        if query_id in self._refused:
            if event != "segments":
                del self._refused[query_id]
        elif event != "cancel":
            raise UnknownQuery("query_id", query_id, "open a query before sending its prompt")

    async def _answer(self, query_id: int, entry: _Entry) -> None:
        async def send(responses: Sequence[pb.GenerateResponse]) -> None:
            if self._entries.get(query_id) is entry:
                await self._send(responses, entry.query)

        try:
            with self._backend.tracing.query(entry.query):
                async with Outlet(query_id, entry.shaping, send) as outlet:
                    reason = await entry.query.run(outlet.put)
                    await outlet.end()
        except DelError as error:
            await self._fail(query_id, entry, error)
        except asyncio.CancelledError:
            self._close(query_id, entry, "abandoned")
            raise
        except Exception as error:
            logger.exception("a query failed in the server")
            await self._fail(query_id, entry, error)
        else:
            await self._finish(query_id, entry, reason)

    async def _finish(self, query_id: int, entry: _Entry, reason: Reason) -> None:
        if self._close(query_id, entry, reason.value):
            response = pb.GenerateResponse(query_id=query_id, finish=finish_to_pb(entry.query, reason))
            count_itself(response, response.finish.usage, entry.query.sent_bytes, entry.shaping.pad)
            await self._send([response], entry.query)

    async def _fail(self, query_id: int, entry: _Entry, error: Exception) -> None:
        """Report an error of a query whose prompt has ended."""
        problem = problem_of(error)
        if self._close(query_id, entry, "failed" if problem.code == Code.INTERNAL else "refused"):
            await self._tell(query_id, problem)

    async def _refuse(self, query_id: int, error: DelError, ended: bool) -> None:
        """Report an error in what the client sent; `ended`: nothing more of that prompt is on its way."""
        if not isinstance(error, QueryIdInUse):
            entry = self._entries.get(query_id)
            if entry is None or not self._close(query_id, entry, "refused"):
                self._backend.metrics.queries["refused"].inc()
            if entry is not None:
                entry.query.cancel()
            if not ended:
                self._refused[query_id] = None
                while len(self._refused) > REMEMBERED:
                    del self._refused[next(iter(self._refused))]
        await self._tell(query_id, problem_of(error))

    async def _tell(self, query_id: int, problem: Problem) -> None:
        self._backend.metrics.refuse(problem)
        self._journal.refused(query_id, problem)
        await self._send([pb.GenerateResponse(query_id=query_id, error=problem_to_pb(problem))])

    def _close(self, query_id: int, entry: _Entry, outcome: str) -> bool:
        """Make the id free again; False if that had been done already."""
        if self._entries.get(query_id) is not entry:
            return False
        del self._entries[query_id]
        entry.charge.settle(entry.query.tokens if entry.answer else 0)
        self._backend.metrics.queries[outcome].inc()
        self._journal.ended(query_id, entry.query, outcome)
        if not self._entries:
            self.idle.set()
        return True

    async def _send(self, responses: Sequence[pb.GenerateResponse], query: Query | None = None) -> None:
        """Write them in a row, after those that wait already: a query that ends meanwhile has its end come behind."""
        size = sum(response.ByteSize() + GRPC_PREFIX for response in responses)
        self._visit.meter.count(size)
        self._backend.metrics.wire_bytes["sent", query.prompt.bits if query else "0"].inc(size)
        if query is not None:
            query.sent_bytes += size
        if not self._unsent:
            self._taken = self._loop.time()
        if self._watch is None:  # one for many responses: a timer for each would be a tenth of what an event costs
            self._watch = self._loop.call_later(UNREAD_SECONDS, self._look)
        self._unsent += 1
        try:
            async with self._writing:
                for response in responses:
                    await self._write(response)
                    self._taken = self._loop.time()
        except grpc.aio.BaseError as error:
            # The client is gone; gRPC is about to cancel the call, and this task with it.
            raise asyncio.CancelledError from error
        finally:
            self._unsent -= 1

    def _look(self) -> None:
        """End the call if responses wait and none was taken for UNREAD_SECONDS; look again later if they wait."""
        self._watch = None
        if not self._unsent:
            return
        left = self._taken + UNREAD_SECONDS - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self._tasks.create_task(_unread())


async def _unread() -> Never:
    raise Unread
