"""Generate: what a well-behaved client gets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from serving import Serving, StartServer, public
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_server.service.stream import Stream


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def generate(model: Any, count: int, **inputs: Any) -> list[int]:
    """Greedy tokens of the plain model."""
    out = model.generate(**inputs, max_new_tokens=count, do_sample=False, eos_token_id=None)
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return out[0, start:].tolist()


async def test_a_public_prompt_gives_what_generate_gives(start_server: StartServer, model: Any) -> None:
    async with start_server() as serving:
        talk, ids = serving.talk(), [5, 77, 200, 31, 8]
        await talk.ask(1, [public(*ids[:2]), public(*ids[2:])], options={"max_new_tokens": 24, "ignore_eos": True})
        reply = await talk.answer(1)
        await talk.close()
        assert reply.token_ids == generate(model, 24, input_ids=torch.tensor([ids]))
        tokenizer = serving.backend.tokenizer
        assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)


async def test_many_queries_on_one_stream_give_what_each_gives_alone(start_server: StartServer, model: Any) -> None:
    async with start_server(max_concurrent=4) as serving:
        talk = serving.talk()
        prompts = {query_id: [query_id + 3, 2 * query_id + 40, 99] * (query_id % 3 + 1) for query_id in range(1, 11)}
        for query_id, ids in prompts.items():
            await talk.ask(query_id, [public(*ids)], options={"max_new_tokens": 16, "ignore_eos": True})
            if query_id % 3 == 0:
                await talk.cancel(query_id)
        for query_id, ids in prompts.items():
            reply = await talk.answer(query_id)
            expected = generate(model, 16, input_ids=torch.tensor([ids]))
            assert reply.token_ids == expected[: len(reply.token_ids)]
            if query_id % 3:
                assert len(reply.token_ids) == 16
        await talk.close()


async def test_the_soft_prompt_stands_before_a_prompt_with_a_private_segment_alone(
    start_server: StartServer, model: Any
) -> None:
    async with start_server() as serving:
        codec, talk = serving.backend.codecs[0], serving.talk()
        segments = [public(1, 60), serving.private(100, 101, 102, bits=3), public(70)]
        options = {"max_new_tokens": 12, "ignore_eos": True}
        await talk.ask(1, segments, codec_fingerprint=serving.fingerprint, options=options)
        await talk.ask(2, [public(1, 60, 70)], codec_fingerprint=serving.fingerprint, options=options)
        private = segments[1].private
        embeddings = codec.embed(
            [
                PublicSegment((1, 60)),
                PrivateSegment(NoiseSetting(private.bits, private.noise_scale), private.tokens, private.payload),
                PublicSegment((70,)),
            ]
        )
        assert len(embeddings) == codec.soft_tokens + 6
        assert (await talk.answer(1)).token_ids == generate(model, 12, inputs_embeds=embeddings[None].clone())
        assert (await talk.answer(2)).token_ids == generate(model, 12, input_ids=torch.tensor([[1, 60, 70]]))
        await talk.close()


async def test_the_same_bytes_in_other_chunks_give_the_same_answer(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk, segments = serving.talk(), [public(1, 60), serving.private(100, 101), serving.private(9, bits=2)]
        await talk.ask(1, segments, codec_fingerprint=serving.fingerprint)
        await talk.open(2, 5, codec_fingerprint=serving.fingerprint)
        for segment in segments:
            await talk.segments(2, segment)
        await talk.segments(2)
        await talk.end(2)
        assert (await talk.answer(1)).token_ids == (await talk.answer(2)).token_ids
        await talk.close()


async def test_usage_counts_what_crossed_the_wire(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        segments = [public(1, 60), serving.private(100, 101, 102, bits=4), serving.private(7, bits=1)]
        await talk.ask(9, segments, codec_fingerprint=serving.fingerprint)
        reply = await talk.answer(9)
        await talk.close()
        usage, timings = reply.finish.usage, reply.finish.timings
        assert (usage.private_tokens, usage.public_tokens, usage.new_tokens) == (4, 2, 8)
        assert usage.payload_bytes == 3 * 16 * 4 // 8 + 16 // 8
        assert usage.received_bytes == talk.sent_bytes[9]
        assert usage.sent_bytes == reply.received_bytes
        phases = (timings.queue_us, timings.decode_us, timings.prefill_us)
        assert all(phases)
        assert sum(phases) <= timings.first_token_us
        assert timings.generate_us > 0


async def test_finish_reasons(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 3, "ignore_eos": True})
        assert (await talk.answer(1)).finish.reason == pb.FINISH_REASON_LENGTH
        await talk.ask(2, [public(5)], options={"max_new_tokens": 500, "temperature": 5.0, "seed": 3})
        stopped = await talk.answer(2)
        assert stopped.finish.reason == pb.FINISH_REASON_STOP
        assert stopped.token_ids[-1] == 2
        assert stopped.finish.usage.new_tokens == len(stopped.token_ids)
        await talk.ask(3, [public(*range(3, 259), *range(3, 240))], options={"max_new_tokens": 500, "ignore_eos": True})
        at_the_end = await talk.answer(3)
        assert at_the_end.finish.reason == pb.FINISH_REASON_LENGTH
        assert 493 + len(at_the_end.token_ids) == serving.backend.limits.context_tokens
        await talk.close()


async def test_a_seed_repeats_an_answer_and_its_absence_does_not(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk, sampled = serving.talk(), {"max_new_tokens": 40, "temperature": 3.0, "ignore_eos": True}
        for query_id, options in enumerate([{"seed": 0}, {"seed": 0}, {"seed": 1}, {}, {}]):
            await talk.ask(query_id, [public(5)], options={**sampled, **options})
        answers = [tuple((await talk.answer(query_id)).token_ids) for query_id in range(5)]
        await talk.close()
        assert answers[0] == answers[1]
        assert len(set(answers)) == 4


async def test_log_probabilities_come_with_the_tokens(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 3, "ignore_eos": True, "logprobs": 2})
        await talk.ask(2, [public(5)], options={"max_new_tokens": 3, "ignore_eos": True, "logprobs": 0})
        await talk.ask(3, [public(5)], options={"max_new_tokens": 3, "ignore_eos": True})
        for delta in (await talk.answer(1)).deltas:
            for token, position in zip(delta.token_ids, delta.logprobs, strict=True):
                assert position.top[0].token_id == token
                assert position.top[0].logprob == position.logprob < 0
                assert position.top[1].logprob <= position.top[0].logprob
        assert [len(p.top) for d in (await talk.answer(2)).deltas for p in d.logprobs] == [0, 0, 0]
        assert not any(delta.logprobs for delta in (await talk.answer(3)).deltas)
        await talk.close()


@pytest.mark.parametrize("temperature", [0.0, 3.0])
async def test_a_resumed_answer_goes_on_as_if_uninterrupted(start_server: StartServer, temperature: float) -> None:
    async with start_server() as serving:
        options = {"max_new_tokens": 20, "ignore_eos": True, "temperature": temperature, "seed": 5}
        segments = [public(1, 60), serving.private(100, 101, 102), public(70)]
        ask = {"codec_fingerprint": serving.fingerprint, "options": options}
        talk = serving.talk()
        await talk.ask(1, segments, **ask)
        whole = (await talk.answer(1)).token_ids
        await talk.ask(2, segments, resume_token_ids=whole[:7], **ask)
        rest = await talk.answer(2)
        assert rest.token_ids == whole[7:]
        assert rest.finish.usage.new_tokens == 13
        await talk.ask(3, segments, resume_token_ids=whole, **ask)
        nothing = await talk.answer(3)
        assert (nothing.token_ids, nothing.finish.reason) == ([], pb.FINISH_REASON_LENGTH)
        stopped = {**ask, "options": {**options, "ignore_eos": False}}
        await talk.ask(4, segments, resume_token_ids=[50, 2], **stopped)
        assert (await talk.answer(4)).finish.reason == pb.FINISH_REASON_STOP
        await talk.close()


async def test_a_cancelled_query_finishes_and_its_stream_goes_on(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 500, "ignore_eos": True})
        await talk.until(lambda: len(talk.replies[1].deltas) >= 2)
        await talk.cancel(1)
        reply = await talk.answer(1)
        assert reply.finish.reason == pb.FINISH_REASON_CANCELLED
        assert reply.finish.usage.new_tokens == len(reply.token_ids) < 500
        await talk.open(2, 5)
        await talk.cancel(2)
        assert (await talk.answer(2)).finish.reason == pb.FINISH_REASON_CANCELLED
        await talk.cancel(1)
        await talk.ask(3, [public(5)])
        assert len((await talk.answer(3)).token_ids) == 8
        await talk.close()
        assert serving.sample("queries_total", outcome="cancelled") == 2


async def test_an_id_may_be_used_again_once_its_query_has_ended(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        for _ in range(5):
            talk.replies.pop(1, None)
            await talk.ask(1, [public(5)])
            assert len((await talk.answer(1)).token_ids) == 8
        await talk.close()


async def test_padding_is_passed_over(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.send(77, padding=b"\0" * 1000)
        await talk.ask(1, [public(5)])
        await talk.answer(1)
        await talk.close()
        assert set(talk.replies) == {1}


def count_steps(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with each step of the model."""
    model: Any = serving.backend.engine._model  # type: ignore[attr-defined]
    forward, steps = model.forward, list[None]()

    def counted(**inputs: Any) -> Any:
        steps.append(None)
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", counted)
    return steps


async def test_a_client_that_is_gone_leaves_no_query_behind(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_server(max_concurrent=1) as serving:
        steps, gone = count_steps(serving, monkeypatch), serving.talk()
        await gone.ask(1, [public(5)], options={"max_new_tokens": 500, "ignore_eos": True})
        await gone.until(lambda: bool(gone.replies[1].deltas))
        assert serving.sample("queries_running") == 1
        gone.call.cancel()
        while serving.sample("queries_total", outcome="abandoned") < 1 or serving.backend.engine.load().running:
            await asyncio.sleep(0.001)
        assert len(steps) < 500
        assert serving.backend.admission.taken == 0
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        assert len((await talk.answer(1)).token_ids) == 8
        await talk.close()


async def test_a_stream_that_can_not_be_written_to_is_a_client_that_is_gone(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: pb.GenerateResponse) -> None:
        raise grpc.aio.InternalError("the call is over")

    class Broken(Stream):
        def __init__(self, backend: Any, draining: Any, _: Any, tasks: Any) -> None:
            super().__init__(backend, draining, broken, tasks)

    async with start_server() as serving:
        monkeypatch.setattr("del_server.service.servicer.Stream", Broken)
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        while serving.sample("queries_total", outcome="abandoned") < 1:
            await asyncio.sleep(0.001)
        await talk.close()
        assert (talk.replies, caplog.records) == ({}, [])
        assert serving.backend.admission.taken == 0


async def test_a_stream_that_is_half_closed_still_gets_its_answers(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)])
        await talk.ask(2, [public(6)])
        await talk.close()
        assert [len(talk.replies[query_id].token_ids) for query_id in (1, 2)] == [8, 8]
        assert await talk.call.code() is grpc.StatusCode.OK


async def test_text_of_a_streamed_answer_is_whole_characters(start_server: StartServer, tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    async with start_server() as serving:
        talk = serving.talk()
        options = {"max_new_tokens": 200, "temperature": 10.0, "seed": 1, "ignore_eos": True}
        await talk.ask(1, [public(5)], options=options)
        reply = await talk.answer(1)
        await talk.close()
        assert any(delta.token_ids and not delta.text for delta in reply.deltas)
        assert reply.text == tokenizer.decode(reply.token_ids, skip_special_tokens=True)


async def test_the_loop_of_all_calls_waits_for_none_of_torchs_other_threads(start_server: StartServer) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        async with start_server():
            assert torch.get_num_threads() == 1
            assert await asyncio.to_thread(torch.get_num_threads) == 3  # as the engine's
    finally:
        torch.set_num_threads(before)
