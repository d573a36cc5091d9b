"""What a server is sent that it can't use: a status with details and a remedy, and other queries go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from serving import Serving, StartServer, Talk, public

from del_codec.v1 import inference_pb2 as pb
from del_server.prompt import Prompt
from del_server.status import Code

Send = Callable[[Serving, Talk], Awaitable[None]]
BAD = 13


def private(serving: Serving, **changes: Any) -> pb.Segment:
    """A valid private segment of two tokens of the tiny codec (d = 16) with some fields changed."""
    segment = serving.private(100, 101)
    for name, value in changes.items():
        setattr(segment.private, name, value)
    return segment


def prompt(*segments: Callable[[Serving], pb.Segment], tokens: int | None = None, **fields: Any) -> Send:
    """A whole query under the id BAD."""

    async def send(serving: Serving, talk: Talk) -> None:
        built = [segment(serving) for segment in segments]
        options = {"codec_fingerprint": serving.fingerprint, **fields}
        counted = sum(s.private.tokens if s.HasField("private") else len(s.public.token_ids) for s in built)
        await talk.open(BAD, counted if tokens is None else tokens, **options)
        await talk.segments(BAD, *built)
        await talk.end(BAD)

    return send


def options(**fields: Any) -> Send:
    return prompt(lambda _: public(5), options=fields)


def damaged(**changes: Any) -> Send:
    return prompt(lambda s: private(s, **changes), tokens=2)


async def unknown_event(_: Serving, talk: Talk) -> None:
    newer = pb.GenerateRequest(query_id=BAD)
    newer.MergeFromString(b"\x32\x00")  # field 6, which this version does not have
    await talk.call.write(newer)


async def segments_of_no_query(_: Serving, talk: Talk) -> None:
    await talk.segments(BAD, public(5))
    await talk.segments(BAD, public(5))
    await talk.end(BAD)


async def end_of_no_query(_: Serving, talk: Talk) -> None:
    await talk.end(BAD)


async def large_message(serving: Serving, talk: Talk) -> None:
    await talk.open(BAD, 5)
    await talk.send(BAD, padding=b"\0" * (serving.backend.limits.message_bytes + 1))
    await talk.end(BAD)


async def segments_after_the_end(serving: Serving, talk: Talk) -> None:
    await talk.ask(BAD, [public(5)], options={"max_new_tokens": 500, "ignore_eos": True})
    await talk.segments(BAD, public(5))


async def too_many_segments(serving: Serving, talk: Talk) -> None:
    most = serving.backend.limits.segments
    await talk.open(BAD, most + 1)
    await talk.segments(BAD, *[public(5)] * (most + 1))
    await talk.end(BAD)


CASES: dict[str, tuple[Send, Code, str, str]] = {
    "payload truncated": (damaged(payload=b"\0" * 3), Code.INVALID_ARGUMENT, "FRAME_INVALID", "payload"),
    "payload too long": (damaged(payload=b"\0" * 5), Code.INVALID_ARGUMENT, "FRAME_INVALID", "payload"),
    "payload far too long": (damaged(payload=b"\0" * 9999), Code.INVALID_ARGUMENT, "FRAME_INVALID", "payload"),
    "payload empty": (damaged(payload=b""), Code.INVALID_ARGUMENT, "FRAME_INVALID", "payload"),
    "bits 0": (damaged(bits=0), Code.INVALID_ARGUMENT, "VALUE_INVALID", "segments[0].bits"),
    "bits 9": (damaged(bits=9), Code.INVALID_ARGUMENT, "VALUE_INVALID", "segments[0].bits"),
    "bits other than packed": (damaged(bits=2), Code.INVALID_ARGUMENT, "FRAME_INVALID", "payload"),
    "noise scale 0": (damaged(noise_scale=0), Code.INVALID_ARGUMENT, "VALUE_INVALID", "segments[0].noise_scale"),
    "no noise": (damaged(noise_scale=65536), Code.INVALID_ARGUMENT, "VALUE_INVALID", "segments[0].noise_scale"),
    "segment of no tokens": (damaged(tokens=0), Code.INVALID_ARGUMENT, "FRAME_INVALID", "segments[0].tokens"),
    "segment of 2^32 - 1 tokens": (
        damaged(tokens=2**32 - 1),
        Code.INVALID_ARGUMENT,
        "FRAME_INVALID",
        "segments[0].tokens",
    ),
    "segment of no kind": (
        prompt(lambda _: pb.Segment(), tokens=1),
        Code.INVALID_ARGUMENT,
        "FRAME_INVALID",
        "segments[0].kind",
    ),
    "public segment of no tokens": (
        prompt(lambda _: public(), tokens=1),
        Code.INVALID_ARGUMENT,
        "FRAME_INVALID",
        "segments[0].token_ids",
    ),
    "id out of vocabulary": (prompt(lambda _: public(5, 259)), Code.INVALID_ARGUMENT, "VALUE_INVALID", "token_ids"),
    "resumed id out of vocabulary": (
        prompt(lambda _: public(5), resume_token_ids=[3, 2**32 - 1]),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "resume_token_ids",
    ),
    "fewer tokens than declared": (
        prompt(lambda _: public(5, 6), tokens=3),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "prompt_tokens",
    ),
    "more tokens than declared": (
        prompt(lambda _: public(5, 6), tokens=1),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "prompt_tokens",
    ),
    "empty prompt": (prompt(), Code.INVALID_ARGUMENT, "VALUE_INVALID", "prompt_tokens"),
    "declared over the context": (
        prompt(lambda _: public(5), tokens=512),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "prompt_tokens",
    ),
    "over the context with what is resumed": (
        prompt(lambda _: public(*[5] * 400), resume_token_ids=[7] * 112),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "prompt_tokens",
    ),
    "over the context with the soft prompt": (
        prompt(lambda _: public(*[5] * 398), lambda s: private(s), resume_token_ids=[7] * 108),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "prompt_tokens",
    ),
    "codec unknown": (
        prompt(lambda s: private(s), codec_fingerprint=b"\x01" * 32),
        Code.FAILED_PRECONDITION,
        "CODEC_UNKNOWN",
        "",
    ),
    "codec missing": (
        prompt(lambda s: private(s), codec_fingerprint=b""),
        Code.FAILED_PRECONDITION,
        "CODEC_UNKNOWN",
        "",
    ),
    "codec fingerprint cut": (
        prompt(lambda s: private(s), codec_fingerprint=b"\x01" * 31),
        Code.INVALID_ARGUMENT,
        "VALUE_INVALID",
        "codec_fingerprint",
    ),
    "task unknown": (prompt(lambda s: private(s), task="summarise"), Code.NOT_FOUND, "TASK_UNKNOWN", "task"),
    "task without codec": (
        prompt(lambda _: public(5), task="summarise", codec_fingerprint=b""),
        Code.NOT_FOUND,
        "TASK_UNKNOWN",
        "task",
    ),
    "temperature negative": (options(temperature=-1.0), Code.INVALID_ARGUMENT, "VALUE_INVALID", "temperature"),
    "temperature NaN": (options(temperature=float("nan")), Code.INVALID_ARGUMENT, "VALUE_INVALID", "temperature"),
    "temperature infinite": (options(temperature=float("inf")), Code.INVALID_ARGUMENT, "VALUE_INVALID", "temperature"),
    "top_p above one": (options(top_p=1.5), Code.INVALID_ARGUMENT, "VALUE_INVALID", "top_p"),
    "top_p NaN": (options(top_p=float("nan")), Code.INVALID_ARGUMENT, "VALUE_INVALID", "top_p"),
    "too many alternatives": (options(logprobs=21), Code.INVALID_ARGUMENT, "VALUE_INVALID", "logprobs"),
    "too many new tokens": (options(max_new_tokens=512), Code.INVALID_ARGUMENT, "VALUE_INVALID", "max_new_tokens"),
    "unknown event": (unknown_event, Code.INVALID_ARGUMENT, "VALUE_INVALID", "event"),
    "segments of no query": (segments_of_no_query, Code.NOT_FOUND, "QUERY_UNKNOWN", "query_id"),
    "end of no query": (end_of_no_query, Code.NOT_FOUND, "QUERY_UNKNOWN", "query_id"),
    "message too large": (large_message, Code.INVALID_ARGUMENT, "VALUE_INVALID", "message"),
    "segments after the end": (segments_after_the_end, Code.INVALID_ARGUMENT, "VALUE_INVALID", "event"),
    "too many segments": (too_many_segments, Code.INVALID_ARGUMENT, "VALUE_INVALID", "segments"),
}


@pytest.mark.parametrize("case", CASES)
async def test_one_error_for_the_query_at_fault_and_its_neighbours_go_on(start_server: StartServer, case: str) -> None:
    send, code, reason, field = CASES[case]
    async with start_server() as serving:
        object.__setattr__(serving.backend.limits, "segments", 16)
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 100, "ignore_eos": True})
        await talk.open(2, 3)
        await talk.segments(2, public(5))
        await talk.until(lambda: bool(talk.replies[1].deltas))
        await send(serving, talk)
        error = await talk.error(BAD)
        assert (error.code, error.reason, error.field, error.retry_after_ms) == (code, reason, field, 0)
        assert len(error.message) > 20
        await talk.segments(2, public(6, 7))
        await talk.end(2)
        assert len((await talk.answer(1)).token_ids) == 100
        assert len((await talk.answer(2)).token_ids) == 8
        # The stream and even the id are none the worse.
        await talk.ask(BAD, [public(5)])
        await talk.until(lambda: talk.replies[BAD].finish is not None)
        assert not talk.replies[BAD].errors
        await talk.close()
        assert serving.sample("queries_total", outcome="refused") == 1
        assert serving.backend.admission.taken == 0


async def test_an_id_in_use_is_refused_and_its_first_query_goes_on(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 300, "ignore_eos": True})
        await talk.open(1, 1)
        await talk.until(lambda: bool(talk.replies[1].errors))
        error = talk.replies[1].errors.pop()
        assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "QUERY_ID_IN_USE")
        assert len((await talk.answer(1)).token_ids) == 300
        await talk.close()


async def test_a_stream_has_room_for_so_many_queries(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk, most = serving.talk(), serving.backend.limits.queries_per_stream
        for query_id in range(most):
            await talk.open(query_id, 1)
        await talk.ask(most, [public(5)])
        error = await talk.error(most)
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "STREAM_FULL")
        assert error.retry_after_ms > 0
        await talk.cancel(0)
        await talk.answer(0)
        await talk.ask(most, [public(5)])
        await talk.until(lambda: talk.replies[most].finish is not None)
        for query_id in range(1, most):
            await talk.cancel(query_id)
        await talk.close()


async def test_a_full_server_says_when_to_come_back(start_server: StartServer) -> None:
    async with start_server(max_concurrent=1) as serving:
        talk, places = serving.talk(), serving.backend.admission.places
        for query_id in range(places + 1):
            await talk.ask(query_id, [public(5)], options={"max_new_tokens": 500, "ignore_eos": True})
        error = await talk.error(places)
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "SERVER_FULL")
        assert error.retry_after_ms > 0
        for query_id in range(places):
            await talk.cancel(query_id)
        for query_id in range(places):
            await talk.answer(query_id)
        await talk.ask(places, [public(5)])
        await talk.until(lambda: talk.replies[places].finish is not None)
        await talk.close()


async def test_a_prompt_that_is_never_ended_is_refused_when_the_stream_closes(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.open(1, 5)
        await talk.segments(1, public(5))
        await talk.close()
        error = talk.replies[1].errors[0]
        assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "end")


async def test_a_message_far_over_the_limit_ends_its_stream_alone(start_server: StartServer) -> None:
    async with start_server() as serving:
        neighbour, talk = serving.talk(), serving.talk()
        await neighbour.ask(1, [public(5)], options={"max_new_tokens": 300, "ignore_eos": True})
        await talk.send(1, padding=b"\0" * (3 * serving.backend.limits.message_bytes))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.close()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len((await neighbour.answer(1)).token_ids) == 300
        await neighbour.close()


async def test_a_model_that_fails_on_one_query_serves_the_others(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_server() as serving:
        model: Any = serving.backend.engine._model  # type: ignore[attr-defined]
        forward = model.forward

        def fail_on_long_prompts(**inputs: Any) -> Any:
            embeddings = inputs.get("inputs_embeds")
            if embeddings is not None and embeddings.shape[1] == 33:
                raise RuntimeError("the prompt was: my secret")
            return forward(**inputs)

        monkeypatch.setattr(model, "forward", fail_on_long_prompts)
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 100, "ignore_eos": True})
        await talk.ask(2, [public(*[7] * 33)])
        error = await talk.error(2)
        assert (error.code, error.reason) == (Code.INTERNAL, "ENGINE_FAILED")
        assert "secret" not in error.message
        assert len((await talk.answer(1)).token_ids) == 100
        await talk.close()
        assert serving.sample("queries_total", outcome="failed") == 1


async def test_a_fault_of_the_server_tells_nothing_of_the_prompt(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_server() as serving:

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError("my secret")

        monkeypatch.setattr(Prompt, "_embed", fail)
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        error = await talk.error(1)
        await talk.close()
        assert (error.code, error.reason) == (Code.INTERNAL, "INTERNAL")
        assert "secret" not in error.message


async def test_a_server_without_codecs_answers_public_prompts_alone(start_server: StartServer) -> None:
    async with start_server(codecs=()) as serving:
        info = await serving.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert not info.codecs
        talk = serving.talk()
        segment = pb.PrivateSegment(bits=1, noise_scale=70_000, tokens=1, payload=b"ab")
        await talk.open(1, 1)
        await talk.segments(1, pb.Segment(private=segment))
        error = await talk.error(1)
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "CODEC_UNKNOWN")
        await talk.ask(2, [public(5)])
        await talk.answer(2)
        await talk.close()
