"""A client that sends anything at all: the server answers each message or passes it over, and serves the next."""

from __future__ import annotations

import asyncio
import random

import pytest
from serving import Serving, StartServer, public

from del_codec.v1 import inference_pb2 as pb


def random_segment(draw: random.Random, serving: Serving) -> pb.Segment:
    kind = draw.randrange(4)
    if kind == 0:
        return public(*[draw.choice([0, 5, 258, 259, 2**32 - 1]) for _ in range(draw.randrange(4))])
    if kind == 1:
        return serving.private(*[draw.randrange(259) for _ in range(draw.randrange(1, 4))], bits=draw.randrange(1, 9))
    if kind == 2:
        fields = {"bits": draw.choice([0, 1, 8, 9]), "noise_scale": draw.choice([0, 65536, 65537, 2**32 - 1])}
        payload = draw.randbytes(draw.choice([0, 2, 4, 32]))
        return pb.Segment(private=pb.PrivateSegment(**fields, tokens=draw.choice([0, 1, 2, 2**31]), payload=payload))
    return pb.Segment()


def random_request(draw: random.Random, serving: Serving) -> pb.GenerateRequest:
    query_id = draw.randrange(5)
    event = draw.randrange(10)
    if event < 3:
        options = pb.GenerationOptions(
            max_new_tokens=draw.choice([0, 1, 20, 2**32 - 1]), temperature=draw.choice([0, 1, -1, float("nan")])
        )
        opening = pb.OpenQuery(
            codec_fingerprint=draw.choice([b"", serving.fingerprint, serving.fingerprint, b"\x01" * 32]),
            prompt_tokens=draw.choice([0, 1, 2, 3, 511, 2**32 - 1]),
            options=options,
            resume_token_ids=draw.choice([[], [], [2], [300]]),
        )
        return pb.GenerateRequest(query_id=query_id, open=opening)
    if event < 7:
        segments = [random_segment(draw, serving) for _ in range(draw.randrange(3))]
        return pb.GenerateRequest(query_id=query_id, segments=pb.SegmentChunk(segments=segments))
    if event < 9:
        return pb.GenerateRequest(query_id=query_id, end=pb.EndPrompt())
    return pb.GenerateRequest(query_id=query_id, cancel=pb.CancelQuery())


@pytest.mark.parametrize("seed", range(6))
async def test_any_sequence_of_messages_leaves_the_server_whole(start_server: StartServer, seed: int) -> None:
    draw = random.Random(seed)
    async with start_server(max_concurrent=2) as serving:
        talk = serving.talk()
        for _ in range(300):
            await talk.call.write(random_request(draw, serving))
        await talk.ask(99, [public(5)])
        assert len((await talk.answer(99)).token_ids) == 8
        await talk.close()
        assert serving.backend.admission.taken == 0
        assert serving.backend.engine.health().ok
        ended = sum(serving.sample("queries_total", outcome=o) for o in ("stop", "length", "cancelled", "refused"))
        assert ended > 100
        assert serving.sample("queries_total", outcome="failed") == 0


async def test_streams_that_break_off_leave_nothing_behind(start_server: StartServer) -> None:
    async with start_server(max_concurrent=2) as serving:
        for seed in range(10):
            draw, talk = random.Random(seed), serving.talk()
            for _ in range(20):
                await talk.call.write(random_request(draw, serving))
            await talk.ask(50, [public(5)], options={"max_new_tokens": 500, "ignore_eos": True})
            talk.call.cancel()
        while serving.backend.admission.taken or serving.backend.engine.load().running:
            await asyncio.sleep(0.005)
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        assert len((await talk.answer(1)).token_ids) == 8
        await talk.close()
