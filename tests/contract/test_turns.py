"""Who is answered, over gRPC: callers in turn, and waiting queries that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from serving import Serving, StartServer, Talk, public

from del_codec.v1 import inference_pb2 as pb
from del_server.access.caller import HERE, Caller, Door

ENDLESS = {"max_new_tokens": 500, "ignore_eos": True}


@asynccontextmanager
async def busy(serving: Serving) -> AsyncIterator[Talk]:
    """Every slot is taken by an answer that goes on."""
    talk = serving.talk()
    for query_id in range(serving.backend.admission.slots):
        await talk.ask(query_id, [public(5)], options=ENDLESS)
    while serving.backend.admission.taken < serving.backend.admission.slots:
        await asyncio.sleep(0.002)
    yield talk
    await talk.close()


async def test_callers_take_turns(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["many", "few"])
    monkeypatch.setattr(Door, "admit", lambda _self, _shown: Caller(next(names, HERE)))
    async with start_server(max_concurrent=1) as serving:
        many = serving.talk()
        for query_id in range(8):
            await many.ask(query_id, [public(5)], options={"max_new_tokens": 30, "ignore_eos": True})
        while serving.backend.admission.taken < 8:
            await asyncio.sleep(0.002)
        few = serving.talk()
        await few.ask(1, [public(5)], options={"max_new_tokens": 2, "ignore_eos": True})
        await few.answer(1)
        assert sum(reply.finish is not None for reply in many.replies.values()) < 7
        for query_id in range(8):
            assert len((await many.answer(query_id)).token_ids) == 30
        await many.close()
        await few.close()


async def test_a_query_that_waits_can_be_cancelled_at_once(start_server: StartServer) -> None:
    async with start_server(max_concurrent=1) as serving, busy(serving) as talk:
        await talk.ask(90, [public(5)])
        await talk.cancel(90)
        assert (await talk.answer(90)).finish.reason == pb.FINISH_REASON_CANCELLED
        assert serving.backend.admission.taken == serving.backend.admission.slots
        for query_id in range(serving.backend.admission.slots):
            await talk.cancel(query_id)


async def test_a_deadline_ends_what_runs_and_what_waits(start_server: StartServer) -> None:
    async with start_server(max_concurrent=1) as serving:
        talk = Talk(serving.stub.Generate(timeout=1.0))
        for query_id in range(6):
            await talk.ask(query_id, [public(5)], options=ENDLESS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.closed()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        while serving.backend.admission.taken or serving.backend.engine.load().running:
            await asyncio.sleep(0.005)
