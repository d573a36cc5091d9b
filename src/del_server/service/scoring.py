"""One Score call: from its message to its answer, counted as a query is."""

from __future__ import annotations

import asyncio
import logging

from del_codec.errors import DelError, InvalidValue
from del_codec.v1 import inference_pb2 as pb
from del_server.access.visit import Visit
from del_server.backend import Backend
from del_server.score import Question
from del_server.service.journal import Journal
from del_server.service.messages import GRPC_PREFIX, asked_from_pb, scored_to_pb
from del_server.status import Code, problem_of

logger = logging.getLogger(__name__)


async def answer(request: pb.ScoreRequest, backend: Backend, visit: Visit) -> pb.ScoreResponse:
    """The answer. Raises DelError for what the client is told, CancelledError when it has gone."""
    metrics, size = backend.metrics, request.ByteSize() + GRPC_PREFIX
    visit.meter.count(size)
    bits = "0"
    try:
        most = backend.limits.message_bytes
        if size - GRPC_PREFIX > most:
            raise InvalidValue("message", f"{size - GRPC_PREFIX} bytes", f"a message has at most {most}")
        question = Question(asked_from_pb(request), backend, visit.caller.name)
        charge = visit.query(question.tokens)
        bits = question.prompt.bits
        try:
            with backend.tracing.query(question):
                scored = await question.run()
        except DelError:
            charge.settle(0)
            raise
    except asyncio.CancelledError:
        metrics.queries["abandoned"].inc()
        raise
    except Exception as error:
        if not isinstance(error, DelError):
            logger.exception("a question failed in the server")
        metrics.queries["failed" if problem_of(error).code == Code.INTERNAL else "refused"].inc()
        raise
    finally:
        metrics.wire_bytes["received", bits].inc(size)
    response = scored_to_pb(question, scored, size, request.token_logprobs)
    metrics.queries["scored"].inc()
    metrics.wire_bytes["sent", bits].inc(response.ByteSize() + GRPC_PREFIX)
    Journal(visit.caller.name).scored(question, size)
    visit.meter.count(response.ByteSize() + GRPC_PREFIX)
    return response
