"""Options of an answer over gRPC: strings to end before, and a penalty on repetition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Serving, StartServer, public
from transformers import AutoModelForCausalLM

from del_codec.v1 import inference_pb2 as pb

IDS = (5, 77, 200, 31, 8)


async def whole(serving: Serving, **options: Any) -> Any:
    talk = serving.talk()
    await talk.ask(1, [public(*IDS)], options={"max_new_tokens": 40, "ignore_eos": True, **options})
    reply = await talk.answer(1)
    await talk.close()
    return reply


@pytest.mark.parametrize("length", [1, 3])
async def test_an_answer_ends_before_a_stop_string(start_server: StartServer, length: int) -> None:
    async with start_server() as serving:
        plain = await whole(serving, temperature=3.0, seed=4)
        start = next(at for at in range(8, len(plain.text)) if plain.text[at : at + length].isprintable())
        string = plain.text[start : start + length]
        stopped = await whole(serving, temperature=3.0, seed=4, stop=["never said", string])
        assert stopped.text == plain.text[: plain.text.index(string)]
        assert stopped.finish.reason == pb.FINISH_REASON_STOP
        assert stopped.token_ids == plain.token_ids[: len(stopped.token_ids)]
        assert len(stopped.token_ids) <= stopped.finish.usage.new_tokens < len(plain.token_ids)
        assert serving.backend.engine.load().running == 0


async def test_an_answer_without_its_stop_string_is_whole(start_server: StartServer) -> None:
    async with start_server() as serving:
        plain = await whole(serving, temperature=3.0, seed=4)
        stopped = await whole(serving, temperature=3.0, seed=4, stop=["never said", plain.text[-3:] + "x"], logprobs=1)
        assert (stopped.text, stopped.token_ids) == (plain.text, plain.token_ids)
        assert stopped.finish.reason == pb.FINISH_REASON_LENGTH
        assert sum(len(delta.logprobs) for delta in stopped.deltas) == 40


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("stop", {"stop": [""]}),
        ("stop", {"stop": ["a"] * 17}),
        ("stop", {"stop": ["a" * 257]}),
        ("repetition_penalty", {"repetition_penalty": -1.0}),
        ("repetition_penalty", {"repetition_penalty": float("nan")}),
        ("repetition_penalty", {"repetition_penalty": 1e9}),
    ],
)
async def test_options_out_of_bounds_are_refused_and_others_go_on(
    start_server: StartServer, field: str, options: dict[str, Any]
) -> None:
    async with start_server() as serving:
        talk = serving.talk()
        await talk.ask(1, [public(*IDS)], options={"max_new_tokens": 30, "ignore_eos": True})
        await talk.ask(2, [public(*IDS)], options=options)
        assert (await talk.error(2)).field == field
        assert len((await talk.answer(1)).token_ids) == 30
        await talk.close()


async def test_a_repetition_penalty_is_that_of_generate(start_server: StartServer, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    embeddings = model.get_input_embeddings()(torch.tensor([list(IDS)]))
    with pytest.warns(UserWarning, match="only to newly generated tokens"):
        out = model.generate(
            inputs_embeds=embeddings, max_new_tokens=40, do_sample=False, repetition_penalty=1.3, eos_token_id=None
        )
    expected = out[0].tolist()
    async with start_server() as serving:
        reply = await whole(serving, repetition_penalty=1.3)
        assert reply.token_ids == expected != (await whole(serving)).token_ids
        talk = serving.talk()
        options = {"max_new_tokens": 40, "ignore_eos": True, "repetition_penalty": 1.3}
        await talk.ask(1, [public(*IDS)], options=options, resume_token_ids=expected[:15])
        assert (await talk.answer(1)).token_ids == expected[15:]
        await talk.close()
