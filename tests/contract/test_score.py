"""Score: what a call is given back, and how it is refused."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from serving import Serving, StartServer, public
from transformers import AutoModelForCausalLM

from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_server.prompt import Prompt


def ask(serving: Serving, segments: list[pb.Segment], candidates: list[list[int]], **fields: Any) -> pb.ScoreRequest:
    fields.setdefault("codec_fingerprint", serving.fingerprint)
    return pb.ScoreRequest(segments=segments, candidates=[pb.Candidate(token_ids=ids) for ids in candidates], **fields)


async def refusal(serving: Serving, request: pb.ScoreRequest, **options: Any) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and field of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await serving.stub.Score(request, **options)
    status = rpc_status.from_call(caught.value)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    if status is not None:
        assert status.details[0].Unpack(info)
        for detail in status.details[1:]:
            detail.Unpack(bad)
    return caught.value.code(), info.reason, bad.field_violations[0].field if bad.field_violations else ""


def plain(model: Any, prompt: torch.Tensor, ids: list[int]) -> list[float]:
    """Log-probability of each id after prompt embeddings [T, D], by one forward pass."""
    embeddings = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(ids))])
    with torch.inference_mode():
        logits = model(inputs_embeds=embeddings[None]).logits[0].float().log_softmax(-1)
    return logits[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("task", ["", "mood"])
async def test_scores_are_those_of_the_decoded_prompt_behind_the_tasks_soft_prompt(
    start_server: StartServer, tiny_model: Path, tasked_codec: Path, task: str
) -> None:
    candidates = [[70], [71, 72, 73], [70, 5]]
    async with start_server(codecs=(tasked_codec,)) as serving:
        codec = serving.backend.codecs[0]
        segments = [public(1, 60), serving.private(100, 101, 102, bits=2), public(70)]
        request = ask(serving, segments, candidates, task=task, token_logprobs=True)
        response = await serving.stub.Score(request)
        private = segments[1].private
        setting = NoiseSetting(private.bits, private.noise_scale)
        decoded = codec.embed(
            [PublicSegment((1, 60)), PrivateSegment(setting, 3, private.payload), PublicSegment((70,))], task
        )
        assert len(decoded) == (5 if task else 4) + 6
        assert serving.sample("queries_total", outcome="scored") == 1
        assert serving.sample("tokens_total", kind="candidate") == 6
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for ids, score in zip(candidates, response.scores, strict=True):
        expected = plain(model, decoded.clone(), ids)
        assert list(score.token_logprobs) == pytest.approx(expected, abs=1e-5)
        assert score.logprob == pytest.approx(sum(expected), abs=1e-5)
        assert score.tokens == len(ids)
    usage = response.usage
    assert (usage.private_tokens, usage.public_tokens, usage.new_tokens) == (3, 3, 0)
    assert usage.payload_bytes == len(private.payload)
    assert usage.received_bytes == request.ByteSize() + 5
    assert usage.sent_bytes == response.ByteSize() + 5
    assert response.timings.prefill_us > 0


async def test_a_public_prompt_meets_the_plain_model(
    start_server: StartServer, tiny_model: Path, tasked_codec: Path
) -> None:
    async with start_server(codecs=(tasked_codec,)) as serving:
        request = ask(serving, [public(1, 60, 70)], [[5], [6, 7]], task="mood")
        response = await serving.stub.Score(request)
        bare = await serving.stub.Score(ask(serving, [public(1, 60, 70)], [[5]], codec_fingerprint=b""))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = model.get_input_embeddings()(torch.tensor([1, 60, 70])).detach()
    assert [s.logprob for s in response.scores] == pytest.approx(
        [sum(plain(model, prompt, ids)) for ids in ([5], [6, 7])], abs=1e-5
    )
    assert bare.scores[0].logprob == pytest.approx(response.scores[0].logprob, abs=1e-6)
    assert not response.scores[0].token_logprobs


async def test_a_server_tells_of_its_tasks(start_server: StartServer, tasked_codec: Path) -> None:
    async with start_server(codecs=(tasked_codec,)) as serving:
        (codec,) = (await serving.stub.GetServerInfo(pb.GetServerInfoRequest())).codecs
        talk = serving.talk()
        await talk.ask(1, [serving.private(5)], codec_fingerprint=serving.fingerprint, task="mood")
        await talk.answer(1)
        await talk.close()
    assert list(codec.tasks) == ["mood", "same"]
    assert codec.task_infos[0] == pb.TaskInfo(name="mood", template="Text: {}\nMood:", labels=["good", "bad"])


BAD: dict[str, tuple[Any, grpc.StatusCode, str, str]] = {
    "no candidates": (
        lambda s: ask(s, [public(5)], []), grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates",
    ),
    "an empty candidate": (
        lambda s: ask(s, [public(5)], [[5], []]),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates[1].token_ids",
    ),
    "too many candidates": (
        lambda s: ask(s, [public(5)], [[5]] * 257),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates",
    ),
    "too many candidate tokens": (
        lambda s: ask(s, [public(5)], [[5] * 400] * 11),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates",
    ),
    "an unknown id": (
        lambda s: ask(s, [public(5)], [[5], [6, 259]]),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates[1].token_ids",
    ),
    "a candidate beyond the context": (
        lambda s: ask(s, [public(5), s.private(6)], [[5] * 507]),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "candidates[0].token_ids",
    ),
    "no prompt": (
        lambda s: ask(s, [], [[5]]), grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "segments",
    ),
    "a prompt beyond the context": (
        lambda s: ask(s, [public(*[5] * 508)], [[5]]),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "segments",
    ),
    "an unknown id in the prompt": (
        lambda s: ask(s, [public(259)], [[5]]), grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "token_ids",
    ),
    "a short payload": (
        lambda s: ask(s, [pb.Segment(private=pb.PrivateSegment(bits=1, noise_scale=70_000, tokens=2))], [[5]]),
        grpc.StatusCode.INVALID_ARGUMENT, "FRAME_INVALID", "payload",
    ),
    "a segment of no kind": (
        lambda s: ask(s, [pb.Segment()], [[5]]),
        grpc.StatusCode.INVALID_ARGUMENT, "FRAME_INVALID", "segments[0].kind",
    ),
    "an unknown task": (
        lambda s: ask(s, [public(5)], [[5]], task="mood"), grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "task",
    ),
    "another codec": (
        lambda s: ask(s, [public(5)], [[5]], codec_fingerprint=b"\1" * 32),
        grpc.StatusCode.FAILED_PRECONDITION, "CODEC_UNKNOWN", "",
    ),
    "private without a codec": (
        lambda s: ask(s, [s.private(5)], [[5]], codec_fingerprint=b""),
        grpc.StatusCode.FAILED_PRECONDITION, "CODEC_UNKNOWN", "",
    ),
    "a fingerprint of a wrong size": (
        lambda s: ask(s, [public(5)], [[5]], codec_fingerprint=b"\1"),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "codec_fingerprint",
    ),
    "too large a message": (
        lambda s: ask(s, [public(5)], [[5]], padding=b"\0" * (1 << 20)),
        grpc.StatusCode.INVALID_ARGUMENT, "VALUE_INVALID", "message",
    ),
}  # fmt: skip


async def test_bad_input_is_refused_with_its_field_and_others_go_on(start_server: StartServer) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(5)], options={"max_new_tokens": 400, "ignore_eos": True})
        for name, (make, *expected) in BAD.items():
            assert [name, *await refusal(serving, make(serving))] == [name, *expected]
        assert serving.sample("queries_total", outcome="refused") == len(BAD)
        assert len((await talk.answer(1)).token_ids) == 400
        await talk.close()
        fits = ask(serving, [public(5), serving.private(6)], [[5] * 506])
        assert (await serving.stub.Score(fits)).scores[0].tokens == 506


class Valve:
    """A model that stops while `open` is cleared."""

    def __init__(self, serving: Serving) -> None:
        self.open = threading.Event()
        model = serving.backend.engine._model  # type: ignore[attr-defined]
        self._forward = model.forward
        model.forward = self.forward

    def forward(self, **inputs: Any) -> Any:
        self.open.wait()
        return self._forward(**inputs)


async def test_a_full_server_says_when_to_come_back(start_server: StartServer) -> None:
    async with start_server(max_concurrent=1) as serving:
        valve, places = Valve(serving), serving.backend.admission.places
        request = ask(serving, [public(5)], [[5]])
        calls = [serving.stub.Score(request) for _ in range(places)]
        while serving.backend.admission.taken < places:
            await asyncio.sleep(0.002)
        assert await refusal(serving, request) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_FULL", "")
        valve.open.set()
        assert len(await asyncio.gather(*calls)) == places


@pytest.mark.parametrize("leave", ["deadline", "cancel"])
async def test_a_call_that_ends_early_frees_its_place(start_server: StartServer, leave: str) -> None:
    async with start_server(max_concurrent=1) as serving:
        valve = Valve(serving)
        request = ask(serving, [serving.private(5)], [[5, 6]] * 200)
        call = serving.stub.Score(request, timeout=0.3 if leave == "deadline" else None)
        while not serving.backend.engine.load().running:
            await asyncio.sleep(0.002)
        if leave == "cancel":
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        while serving.sample("queries_total", outcome="abandoned") < 1:
            await asyncio.sleep(0.002)
        valve.open.set()
        while serving.backend.engine.load().running:
            await asyncio.sleep(0.002)
        assert serving.backend.admission.taken == 0
        assert len((await serving.stub.Score(ask(serving, [public(5)], [[5]]))).scores) == 1


async def test_a_model_that_fails_on_one_question_serves_the_others(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_server() as serving:
        model = serving.backend.engine._model  # type: ignore[attr-defined]
        forward = model.forward

        def fail(**inputs: Any) -> Any:
            if inputs.get("input_ids") is not None and inputs["input_ids"].shape[1] == 3:
                raise RuntimeError("device-side assert triggered")
            return forward(**inputs)

        monkeypatch.setattr(model, "forward", fail)
        broken = ask(serving, [public(5)], [[1, 2, 3, 4]])
        assert await refusal(serving, broken) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED", "")
        assert len((await serving.stub.Score(ask(serving, [public(5)], [[5], [6, 7]]))).scores) == 2
        assert serving.sample("queries_total", outcome="failed") == 1


async def test_a_fault_of_the_server_tells_nothing_of_the_question(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_server() as serving:

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError("my secret")

        monkeypatch.setattr(Prompt, "_embed", fail)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await serving.stub.Score(ask(serving, [public(5)], [[5]]))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(caught.value.details())


async def test_a_draining_server_finishes_what_it_has_and_takes_no_more(start_server: StartServer) -> None:
    async with start_server() as serving:
        valve = Valve(serving)
        call = serving.stub.Score(ask(serving, [public(5)], [[5]]))
        while not serving.backend.engine.load().running:
            await asyncio.sleep(0.002)
        leaving = asyncio.ensure_future(serving.stop())
        while not serving.sample("queries_total", outcome="scored"):
            valve.open.set()
            await asyncio.sleep(0.002)
        assert len((await call).scores) == 1
        await leaving
