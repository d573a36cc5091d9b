"""The gateway's answers in OpenAI's shapes, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from client_fakes import TinyCodec, finish, segments_of
from gateway_app import Start, said, starting
from gateway_fakes import Saying

from del_client import Policy
from del_codec.v1 import inference_pb2 as pb

POLICY_OF_KINDS = Policy.from_toml("[kinds.email]")


@pytest.fixture
def start(codec: TinyCodec, tmp_path: Path) -> Start:
    return starting(codec, tmp_path)


class TestShapes:
    def test_a_whole_chat_completion(self, start: Start) -> None:
        with start("hello") as app:
            found = app.chat("hi")
            assert found["object"] == "chat.completion"
            assert found["id"].startswith("chatcmpl-")
            (choice,) = found["choices"]
            assert (choice["message"]["role"], choice["message"]["content"]) == ("assistant", "hello")
            assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
            usage = found["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            assert usage["completion_tokens"] == 6

    def test_a_streamed_one_has_the_role_first_and_then_one_chunk_a_piece(self, start: Start) -> None:
        with start("hey") as app:
            chunks = app.stream("/v1/chat/completions", messages=[said("hi")])
            assert {(chunk["object"], chunk["id"], chunk["created"]) for chunk in chunks} == {
                ("chat.completion.chunk", chunks[0]["id"], chunks[0]["created"])
            }
            choices = [chunk["choices"][0] for chunk in chunks]
            assert choices[0]["delta"]["role"] == "assistant"
            assert [choice["delta"].get("content") for choice in choices] == ["", "h", "e", "y", None]
            assert [choice["finish_reason"] for choice in choices] == [None, None, None, None, "stop"]
            assert not any("usage" in chunk for chunk in chunks)
            assert chunks[-1]["del"]["private_tokens"] == 2

    def test_usage_comes_in_a_last_chunk_without_choices_if_asked_for(self, start: Start) -> None:
        with start("hey") as app:
            options = {"include_usage": True}
            chunks = app.stream("/v1/chat/completions", messages=[said("hi")], stream_options=options)
            assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
            assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]) == ([], 4)
            assert "del" in chunks[-1]

    def test_texts_whole_and_streamed(self, start: Start) -> None:
        with start("one", "two", "six") as app:
            found = app.post("/v1/completions", prompt=["a", "b"]).json()
            assert found["object"] == "text_completion"
            assert [choice["index"] for choice in found["choices"]] == [0, 1]
            assert {choice["text"] for choice in found["choices"]} == {"one", "two"}
            chunks = app.stream("/v1/completions", prompt="c")
            assert [chunk["choices"][0]["text"] for chunk in chunks] == ["s", "i", "x", ""]
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
            assert app.public_text() == ""  # a text has no template around it

    def test_several_choices_answer_the_same_bits(self, start: Start) -> None:
        with start("one", "two") as app:
            found = app.chat("hi", n=2)
            assert {choice["message"]["content"] for choice in found["choices"]} == {"one", "two"}
            (first, second) = app.server.streams[-1].values()
            assert segments_of(first) == segments_of(second)
            assert found["del"]["charged_tokens"] == app.charged() == 2
            assert found["usage"]["prompt_tokens"] == found["del"]["prompt_tokens"]
            assert app.http.get("/metrics").text.count("del_gateway_answers 0.0") == 1

    def test_several_choices_are_streamed_by_index(self, start: Start) -> None:
        with start("ab", "ab") as app:
            chunks = app.stream("/v1/chat/completions", messages=[said("hi")], n=2)
            for index in (0, 1):
                own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
                assert "".join(choice["delta"].get("content") or "" for choice in own) == "ab"
                assert (own[0]["delta"]["role"], own[-1]["finish_reason"]) == ("assistant", "stop")
            assert ["del" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]

    def test_logprobs_of_a_chat_and_of_a_text(self, start: Start) -> None:
        with start(reply=Saying("hé", "hé", logprobs=True)) as app:
            content = app.chat("hi", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
            assert [entry["bytes"] for entry in content] == [[104], None, None]
            assert (content[0]["token"], content[0]["logprob"]) == ("h", -0.5)
            assert [one["logprob"] for one in content[0]["top_logprobs"]] == [-0.5, -1.5]
            found = app.post("/v1/completions", prompt="a", logprobs=2).json()["choices"][0]["logprobs"]
            assert found["tokens"][0] == "h"
            assert (found["token_logprobs"], found["text_offset"]) == ([-0.5] * 3, [0, 1, 1])

    def test_logprobs_of_a_hostile_server_are_json(self, start: Start) -> None:
        async def hostile(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            delta = pb.TokenDelta(token_ids=[5], text="x")
            top = [pb.TokenLogprob(token_id=4_000_000_000, logprob=float("inf"))]
            delta.logprobs.append(pb.TokenLogprobs(logprob=float("nan"), top=top))
            yield pb.GenerateResponse(query_id=query_id, delta=delta)
            yield finish(query_id, requests)

        with start(reply=hostile) as app:
            (entry,) = app.chat("hi", logprobs=True, top_logprobs=1, max_tokens=1)["choices"][0]["logprobs"]["content"]
            assert (entry["logprob"], entry["top_logprobs"][0]["logprob"]) == (-9999, -9999)

    def test_no_character_of_an_answer_ends_an_event(self, start: Start) -> None:
        with start("a\u2028b\u2029c\nd") as app:
            body = {"model": "tiny", "messages": [said("hi")], "stream": True}
            with app.http.stream("POST", "/v1/chat/completions", json=body) as response:
                chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == "a\u2028b\u2029c\nd"

    def test_a_stop_string_is_found_across_tokens_and_never_sent(self, start: Start) -> None:
        with start(reply=Saying("one STOP two", "one STOP two", logprobs=True)) as app:
            choice = app.chat("hi", stop="STOP", logprobs=True)["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
            assert [entry["token"] for entry in choice["logprobs"]["content"]] == list("one ")
            (opening,) = (requests[0].open for requests in app.server.streams[-1].values())
            assert b"STOP" not in opening.SerializeToString()
            chunks = app.stream("/v1/chat/completions", messages=[said("ho")], stop=["x", "STO", "y", "z"])
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "one "
