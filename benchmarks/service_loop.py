"""The service's own work on each token: queries of STREAMS streams over a stub engine, their messages made and dropped.

In this process and without gRPC, so that nothing but the server's code is timed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from benchmarks.stub import stubbed
from del_codec.v1 import inference_pb2 as pb
from del_server.access.caller import Shown
from del_server.access.visit import Gatehouse
from del_server.app import gatehouse, load
from del_server.backend import Backend
from del_server.config import ServeConfig
from del_server.service import InferenceService
from del_server.service.guard import VISIT

STREAMS = 8
PROMPT = 64
TOKENS = 32
EVENTS = STREAMS * TOKENS


def service_loop() -> Callable[[], None]:
    """A call that answers STREAMS queries of TOKENS tokens each."""
    config = ServeConfig(port=0)
    backend = stubbed(load(config))
    gates = gatehouse(config, backend)
    return lambda: asyncio.run(_answer(backend, gates))


def public_request(tokens: int, prompt: int = PROMPT) -> pb.GenerateRequest:
    """So many public tokens, which the server need not decode, and an answer of exactly so many."""
    segment = pb.Segment(public=pb.PublicSegment(token_ids=range(100, 100 + prompt)))
    options = pb.GenerationOptions(max_new_tokens=tokens, ignore_eos=True)
    opening = pb.OpenQuery(prompt_tokens=prompt, options=options, segments=[segment], end=True)
    return pb.GenerateRequest(query_id=1, open=opening)


class _Sink:
    """A call's context that makes what is written to it into bytes."""

    async def write(self, response: pb.GenerateResponse) -> None:
        """Let others go on, as a connection would."""
        response.SerializeToString()
        await asyncio.sleep(0)


async def _answer(backend: Backend, gates: Gatehouse) -> None:
    service = InferenceService(backend, 0.0)
    with gates.visit(Shown("", encrypted=False)) as visit:
        VISIT.set(visit)
        await asyncio.gather(*(service.Generate(_one(public_request(TOKENS)), _Sink()) for _ in range(STREAMS)))


async def _one(request: pb.GenerateRequest) -> AsyncIterator[pb.GenerateRequest]:
    yield request
