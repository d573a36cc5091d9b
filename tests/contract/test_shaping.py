"""A query in one message, and answers whose messages don't tell their tokens' sizes and times."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_faults import Faults
from serving import PREFIX, Serving, StartServer, Talk, public

from del_codec.v1 import inference_pb2 as pb

TOKENS = 24
OPTIONS = pb.GenerationOptions(max_new_tokens=TOKENS, ignore_eos=True)


async def ask(talk: Talk, query_id: int, *segments: pb.Segment, **fields: Any) -> None:
    """A whole query in one message."""
    opening = pb.OpenQuery(prompt_tokens=3, segments=segments or [public(5, 6, 7)], end=True, options=OPTIONS, **fields)
    await talk.send(query_id, open=opening)


async def plain_answer(serving: Serving) -> list[int]:
    talk = serving.talk()
    await talk.ask(1, [public(5, 6, 7)], options={"max_new_tokens": TOKENS, "ignore_eos": True})
    reply = await talk.answer(1)
    await talk.close()
    return reply.token_ids


async def test_one_message_opens_fills_and_ends_a_query(start_server: StartServer) -> None:
    async with start_server() as serving:
        expected = await plain_answer(serving)
        talk = serving.talk()
        await ask(talk, 1)
        reply = await talk.answer(1)
        assert reply.token_ids == expected
        assert reply.finish
        assert reply.finish.usage.received_bytes == talk.sent_bytes[1]
        await ask(talk, 2, serving.private(5, 6, 7), codec_fingerprint=serving.fingerprint)
        assert (await talk.answer(2)).finish.usage.private_tokens == 3
        await talk.close()


async def test_more_segments_may_follow_an_opening_that_has_some(start_server: StartServer) -> None:
    async with start_server() as serving:
        expected = await plain_answer(serving)
        talk = serving.talk()
        await talk.send(1, open=pb.OpenQuery(prompt_tokens=3, segments=[public(5)], options=OPTIONS))
        await talk.segments(1, public(6, 7))
        await talk.end(1)
        assert (await talk.answer(1)).token_ids == expected
        await talk.close()


async def test_what_is_wrong_in_one_message_is_named_and_harms_no_other(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await ask(talk, 1, public(5, 6))
        assert (await talk.error(1)).field == "prompt_tokens"
        broken = serving.private(5, 6, 7)
        broken.private.payload += b"\0"
        await ask(talk, 2, public(1), broken, codec_fingerprint=serving.fingerprint)
        error = await talk.error(2)
        assert (error.reason, error.field) == ("VALUE_INVALID", "prompt_tokens")
        await ask(talk, 3, pb.Segment(private=pb.PrivateSegment(bits=9, noise_scale=99_999, tokens=3, payload=b"0")))
        assert (await talk.error(3)).field == "segments[0].bits"
        await ask(talk, 1)
        assert len((await talk.answer(1)).token_ids) == TOKENS
        await talk.segments(2, public(1))
        assert (await talk.error(2)).reason == "QUERY_UNKNOWN"
        await talk.close()


@pytest.mark.parametrize(("tokens", "sizes"), [(1, [1] * 24), (5, [5, 5, 5, 5, 4]), (24, [24]), (100, [24])])
async def test_tokens_come_in_groups(start_server: StartServer, tokens: int, sizes: list[int]) -> None:
    async with start_server() as serving:
        expected = await plain_answer(serving)
        talk = serving.talk()
        await ask(talk, 1, shaping=pb.Shaping(tokens=tokens))
        reply = await talk.answer(1)
        await talk.close()
        assert reply.token_ids == expected
        assert reply.text == serving.backend.tokenizer.decode(expected, skip_special_tokens=True)
        assert [len(delta.token_ids) for delta in reply.deltas if delta.token_ids] == sizes


async def test_log_probabilities_stay_with_their_tokens(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        options = pb.GenerationOptions(max_new_tokens=TOKENS, ignore_eos=True, logprobs=0)
        for query_id, shaping in ((1, pb.Shaping()), (2, pb.Shaping(tokens=7))):
            opening = pb.OpenQuery(prompt_tokens=1, segments=[public(5)], end=True, options=options, shaping=shaping)
            await talk.send(query_id, open=opening)
            await talk.answer(query_id)
        await talk.close()
        alone, grouped = (
            [position.logprob for delta in talk.replies[query_id].deltas for position in delta.logprobs]
            for query_id in (1, 2)
        )
        assert alone == grouped
        assert len(alone) == TOKENS


async def test_every_message_has_a_size_of_the_bucket_and_is_counted(start_server: StartServer) -> None:
    async with start_server() as serving:
        expected = await plain_answer(serving)
        talk = serving.talk()
        await ask(talk, 1, shaping=pb.Shaping(bucket_bytes=64))
        reply = await talk.answer(1)
        await talk.close()
        assert reply.token_ids == expected
        assert reply.finish
        sizes = {size - PREFIX for size in reply.sizes}
        assert sizes == {64, 128} or sizes == {64}
        assert reply.finish.usage.sent_bytes == reply.received_bytes


async def test_a_beat_sends_messages_of_one_size_with_tokens_or_without(start_server: StartServer) -> None:
    async with start_server() as serving:
        expected = await plain_answer(serving)
        talk = serving.talk()
        await ask(talk, 1, shaping=pb.Shaping(interval_ms=5, bucket_bytes=1024))
        reply = await talk.answer(1)
        await talk.close()
        assert reply.token_ids == expected
        assert reply.finish
        assert {size - PREFIX for size in reply.sizes} == {1024}
        assert reply.finish.usage.sent_bytes == reply.received_bytes


async def test_a_beat_goes_on_while_there_is_no_token(start_server: StartServer) -> None:
    async with start_server() as serving:
        faults = Faults(serving.backend.engine._model)  # type: ignore[attr-defined]
        faults.open.clear()
        talk = serving.talk()
        await ask(talk, 1, shaping=pb.Shaping(interval_ms=1, bucket_bytes=64))
        await talk.until(lambda: len(talk.replies[1].sizes) >= 3)
        assert not talk.replies[1].deltas
        await talk.cancel(1)
        faults.open.set()
        reply = await talk.answer(1)
        assert reply.finish
        assert reply.finish.reason == pb.FINISH_REASON_CANCELLED
        await talk.close()


@pytest.mark.parametrize(
    ("shaping", "field"),
    [
        (pb.Shaping(tokens=1025), "shaping.tokens"),
        (pb.Shaping(interval_ms=10_001), "shaping.interval_ms"),
        (pb.Shaping(tokens=2, interval_ms=5), "shaping.tokens"),
        (pb.Shaping(bucket_bytes=(1 << 16) + 1), "bucket_bytes"),
    ],
)
async def test_a_shaping_out_of_bounds_is_refused(start_server: StartServer, shaping: pb.Shaping, field: str) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await ask(talk, 1, shaping=shaping)
        error = await talk.error(1)
        assert (error.reason, error.field) == ("VALUE_INVALID", field)
        await talk.close()


async def test_a_client_that_leaves_stops_the_beat(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await ask(talk, 1, shaping=pb.Shaping(interval_ms=10_000))
        talk.call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.closed()
