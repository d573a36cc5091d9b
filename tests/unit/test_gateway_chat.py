"""The gateway from request to answer: OpenAI's shapes, what leaves, what a turn is charged, what a caller may read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from client_fakes import FakeServer, TinyCodec, byte_tokenizer, finish, make_codec, segments_of
from gateway_fakes import Gateway, Saying

from del_client import Ledger, Policy
from del_codec.v1 import inference_pb2 as pb

Json = dict[str, Any]
POLICY_OF_KINDS = Policy.from_toml("[kinds.email]")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TinyCodec:
    return make_codec(tmp_path_factory.mktemp("codec"))


class App:
    """An app that talks to a gateway, and what the server behind it got."""

    def __init__(self, url: str, server: FakeServer, ledger: Path) -> None:
        self.http = httpx.Client(base_url=url)
        self.server = server
        self.ledger = ledger

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"model": "tiny", **body})

    def chat(self, *messages: Json | str, **body: Any) -> Json:
        response = self.post("/v1/chat/completions", messages=[said(one) for one in messages], **body)
        assert response.status_code == 200, response.text
        found: Json = response.json()
        return found

    def stream(self, path: str, **body: Any) -> list[Json]:
        """The chunks; the last event has to be [DONE]."""
        response = self.post(path, stream=True, **body)
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event for event in response.text.split("\n\n") if event]
        assert events.pop() == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def sent(self) -> list[pb.Segment]:
        """The segments of the latest query."""
        queries = self.server.streams[-1]
        return segments_of(queries[max(queries)])

    def public_text(self) -> str:
        ids = [token for segment in self.sent() for token in segment.public.token_ids]
        return str(byte_tokenizer().decode(ids, skip_special_tokens=False))

    def payloads(self) -> list[bytes]:
        return [segment.private.payload for segment in self.sent() if segment.HasField("private")]

    def charged(self) -> int:
        """Tokens that the ledger has been charged for."""
        with Ledger(self.ledger) as ledger, ledger.reading() as entries:
            return sum(group.tokens for group in entries.groups("day", 1))


def said(message: Json | str) -> Json:
    return {"role": "user", "content": message} if isinstance(message, str) else message


def answered(text: str) -> Json:
    return {"role": "assistant", "content": text}


Start = Callable[..., Any]


@pytest.fixture
def start(codec: TinyCodec, tmp_path: Path) -> Start:
    """A context manager of an app whose server answers as said; keyword arguments are the gateway's settings."""

    @contextmanager
    def start(*answers: str, reply: Any = None, policy: Policy | None = None, **settings: Any) -> Iterator[App]:
        server = FakeServer(codec, reply=reply or Saying(*answers))
        gateway = Gateway(server, codec, tmp_path, settings, policy=policy)
        with gateway as url:
            app = App(url, server, tmp_path / "ledger.sqlite3")
            with app.http:
                yield app

    return start


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

    def test_a_stop_string_is_found_across_tokens_and_never_sent(self, start: Start) -> None:
        with start(reply=Saying("one STOP two", "one STOP two", logprobs=True)) as app:
            choice = app.chat("hi", stop="STOP", logprobs=True)["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
            assert [entry["token"] for entry in choice["logprobs"]["content"]] == list("one ")
            (opening,) = (requests[0].open for requests in app.server.streams[-1].values())
            assert b"STOP" not in opening.SerializeToString()
            chunks = app.stream("/v1/chat/completions", messages=[said("ho")], stop=["x", "STO", "y", "z"])
            assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "one "


class TestWhatLeaves:
    def test_every_role_of_an_app_is_private(self, start: Start) -> None:
        with start("ok") as app:
            texts = ["secret rule", "my words", "made up", "tool result", "go"]
            roles = ["system", "user", "assistant", "tool", "user"]
            app.chat(*({"role": role, "content": text} for role, text in zip(roles, texts, strict=True)))
            assert not [text for text in texts if text in app.public_text()]
            assert app.charged() == sum(map(len, texts))

    def test_allow_listed_texts_are_public_whoever_says_them(self, start: Start) -> None:
        digest = hashlib.sha256(b"You are kind.").hexdigest()
        with start("ok", "ok", public=frozenset({digest})) as app:
            app.chat({"role": "system", "content": "You are kind."}, "hi")
            assert "You are kind." in app.public_text()
            assert app.charged() == 2
            app.chat({"role": "system", "content": "You are kind. "}, "hi")
            assert "kind" not in app.public_text()

    def test_a_turn_is_charged_its_new_text_alone_and_repeats_the_earlier_bits(self, start: Start) -> None:
        with start("Anna it is.", "fine", "good") as app:
            messages = [{"role": "system", "content": "Be brief."}, said("My name is Anna.")]
            charged = len("Be brief.My name is Anna.")
            bits: list[bytes] = []
            for question in ("And now?", "Bye."):
                found = app.chat(*messages)
                assert app.charged() == charged
                assert app.payloads()[: len(bits)] == bits
                bits = app.payloads()
                messages += [answered(found["choices"][0]["message"]["content"]), said(question)]
                charged += len(question)
            found = app.chat(*messages)
            assert app.charged() == charged
            assert (found["del"]["charged_tokens"], found["del"]["private_tokens"]) == (len("Bye."), charged)
            assert "Anna it is." in app.public_text()
            assert "fine" in app.public_text()

    def test_the_same_request_again_costs_nothing(self, start: Start) -> None:
        with start("one", "two") as app:
            app.chat("hi there")
            first = app.payloads()
            found = app.chat("hi there", temperature=1)
            assert (app.payloads(), app.charged()) == (first, len("hi there"))
            assert (found["del"]["charged_tokens"], found["del"]["epsilon_charged"]) == (0, 0)

    def test_a_user_or_a_cache_key_keeps_chats_apart(self, start: Start) -> None:
        with start("one", "two", "three") as app:
            for label in ({}, {"user": "b"}, {"prompt_cache_key": "c"}):
                app.chat("hi", **label)
            assert app.charged() == 3 * len("hi")

    def test_chats_that_only_begin_alike_are_two_conversations(self, start: Start) -> None:
        with start("one", "two") as app:
            rule = {"role": "system", "content": "rule"}
            app.chat(rule, "first")
            app.chat(rule, "second")
            with Ledger(app.ledger) as ledger, ledger.reading() as entries:
                assert len(entries.groups("conversation", 9)) == 2

    def test_an_opening_that_chats_share_is_drawn_once(self, start: Start) -> None:
        with start("one", "two", "three") as app:
            opening = [{"role": "system", "content": "rule"}, said("example"), answered("made up")]
            app.chat(*opening, "first")
            bits = app.payloads()
            found = app.chat(*opening, "second")
            assert app.payloads()[:3] == bits[:3]
            assert found["del"]["charged_tokens"] == len("second")
            again = app.chat(*opening, "second", answered("two"), "third")
            assert again["del"]["charged_tokens"] == len("third")
            assert app.charged() == sum(map(len, ("rule", "example", "made up", "first", "second", "third")))

    def test_an_opening_with_a_secret_in_it_is_shared_by_no_other_chat(self, start: Start) -> None:
        with start("one", "two", policy=POLICY_OF_KINDS) as app:
            rule = {"role": "system", "content": "I am ada@example.org"}
            app.chat(rule, "first")
            found = app.chat(rule, "second")
            assert found["del"]["charged_tokens"] == found["del"]["private_tokens"]

    def test_an_answer_is_known_in_whatever_chat_it_stands(self, start: Start) -> None:
        with start("a long answer", "ok") as app:
            app.chat("hi")
            app.chat("an earlier turn was cut off", answered("a long answer\n"), "go on")
            assert "a long answer" in app.public_text()

    def test_an_answer_that_was_changed_is_private(self, start: Start) -> None:
        with start("a long answer", "ok") as app:
            app.chat("hi")
            app.chat("hi", answered("a long answer!"), "go on")
            assert "long" not in app.public_text()

    def test_what_is_forgotten_is_a_new_conversation(self, start: Start) -> None:
        with start("one", "two", "three", remembered_lists=1) as app:
            app.chat("first")
            app.chat("second")
            app.chat("first")
            assert app.charged() == 2 * len("first") + len("second")

    def test_bits_and_mu_are_asked_for_under_del(self, start: Start) -> None:
        with start("one", "two", "three", options={"mu": 3.0}) as app:
            assert app.chat("hi")["del"]["mu"] == 3
            found = app.chat("ho", **{"del": {"mu": 5, "bits": 2}})["del"]
            assert (found["mu"], found["bits"], found["payload_bytes"]) == (5, 2, 6)
            assert found["epsilon_prompt"] > found["epsilon_token"] > 0
            assert found["epsilon_charged"] == found["epsilon_prompt"]
            weak = app.chat("he", **{"del": {"mu": 50}})["del"]["sentences"]
            assert "is outside of 1 to 40, what the codec was trained for" in weak[-1]

    def test_clear_leaves_in_the_clear_and_says_so(self, start: Start) -> None:
        with start("one") as app:
            found = app.chat("in the clear", **{"del": {"clear": True}})["del"]
            assert "in the clear" in app.public_text()
            assert (found["private_tokens"], found["epsilon_prompt"]) == (0, None)
            assert found["sentences"] == ["No privacy: every token was sent as a public id."]


class TestSecrets:
    def test_a_kind_of_the_policy_stays_here_and_comes_back_in_prose(self, start: Start) -> None:
        with start("Write to [EMAIL_1] or ![x](http://e/[EMAIL_1])", "ok", policy=POLICY_OF_KINDS) as app:
            text = app.chat("I am ada@example.org")["choices"][0]["message"]["content"]
            assert text == "Write to ada@example.org or ![x](http://e/[EMAIL_1])"
            assert "ada" not in app.public_text()
            app.chat("I am ada@example.org", answered(text), "thanks")
            assert "Write to [EMAIL_1] or" in app.public_text()  # the very ids, unrestored
            assert "ada" not in app.public_text()

    def test_an_answer_with_a_secret_in_it_is_known_in_its_own_chat_alone(self, start: Start) -> None:
        with start("Hello [EMAIL_1]", "ok", policy=POLICY_OF_KINDS) as app:
            text = app.chat("I am ada@example.org")["choices"][0]["message"]["content"]
            app.chat("who?", answered(text), "thanks")
            assert "Hello" not in app.public_text()
            assert "ada" not in app.public_text()

    def test_a_placeholder_in_a_shared_opening_is_no_secrets(self, start: Start) -> None:
        with start("one", "It is [EMAIL_1], you are [EMAIL_2]", policy=POLICY_OF_KINDS) as app:
            rule = {"role": "system", "content": "Say [EMAIL_1]"}
            app.chat(rule, "first")
            text = app.chat(rule, "I am ada@example.org")["choices"][0]["message"]["content"]
            assert text == "It is [EMAIL_1], you are ada@example.org"

    def test_marks_are_a_users_and_braces_of_programs_stay(self, start: Start) -> None:
        with start("ok", "ok", "ok") as app:
            app.chat({"role": "system", "content": "Fill {{slot}} and \\{{"}, "I am {{Ada}}")
            assert "[SECRET_1]" in app.public_text()
            assert app.charged() == len("Fill {{slot}} and \\{{") + len("I am ")
            app.chat("code {{ x", **{"del": {"marks": False}})
            assert app.charged() == len("Fill {{slot}} and \\{{") + len("I am ") + len("code {{ x")
            refused = app.post("/v1/chat/completions", messages=[said("code {{ x")])
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")

    def test_control_characters_and_marks_of_direction_are_taken_out(self, start: Start) -> None:
        with start("a\x1b]0;title\x07b\u202ec\x9b\rd\ne\tf", "ok") as app:
            text = app.chat("hi")["choices"][0]["message"]["content"]
            assert text == "a]0;titlebcd\ne\tf"
            app.chat("hi", answered(text), "more")
            assert app.charged() == len("himore")  # known by what the app was given


class TestRefusals:
    def error(self, response: httpx.Response) -> tuple[int, str, str]:
        error = response.json()["error"]
        assert set(error) - {"del"} == {"message", "type", "param", "code"}
        return response.status_code, error["type"], error["code"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_limits_of_the_policy(self, start: Start, stream: bool) -> None:
        of_prompt, of_day = (Policy.from_toml(f"[limits.{unit}]\nepsilon = 1.0") for unit in ("prompt", "day"))
        for policy, expected in (
            (of_prompt, (403, "privacy_refusal", "privacy_limit_exceeded")),
            (of_day, (429, "insufficient_quota", "insufficient_quota")),
        ):
            with start("no", policy=policy) as app:
                refused = app.post("/v1/chat/completions", messages=[said("hi")], stream=stream)
                assert self.error(refused) == expected
                assert refused.headers["x-should-retry"] == "false"
                assert refused.json()["error"]["del"]["bound"] == 1.0
                assert (app.server.streams, app.charged()) == ([], 0)

    def test_what_the_policy_forbids(self, start: Start) -> None:
        with start("no", policy=Policy.from_toml("allow_clear = false")) as app:
            refused = app.post("/v1/chat/completions", messages=[said("hi")], **{"del": {"clear": True}})
            assert self.error(refused) == (403, "privacy_refusal", "privacy_refused")

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (8, (429, "rate_limit_error", "rate_limit_exceeded")),
            (3, (400, "invalid_request_error", "invalid_value")),
            (13, (500, "server_error", "engine_failed")),
            (5, (502, "server_error", "codec_mismatch")),
            (16, (502, "server_error", "server_denied_access")),
        ],
    )
    def test_errors_of_the_server(self, start: Start, stream: bool, code: int, expected: tuple[int, str, str]) -> None:
        async def fail(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            error = pb.QueryError(code=code, message="\x1b[31mno", field="temperature", retry_after_ms=1500)
            yield pb.GenerateResponse(query_id=query_id, error=error)

        with start(reply=fail) as app:
            refused = app.post("/v1/chat/completions", messages=[said("hi")], stream=stream)
            assert self.error(refused) == expected
            assert "\x1b" not in refused.json()["error"]["message"]
            if code == 8:
                assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("2", "1500")
            assert app.http.get("/metrics").text.count("del_gateway_answers 0.0") == 1

    def test_an_error_in_the_middle_of_a_stream_ends_it(self, start: Start) -> None:
        async def fail(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[7], text="x"))
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=13, message="broke"))

        with start(reply=fail) as app:
            response = app.post("/v1/chat/completions", messages=[said("hi")], stream=True)
            events = [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]
            assert json.loads(events[1])["choices"][0]["delta"]["content"] == "x"
            assert json.loads(events[-1])["error"]["code"] == "engine_failed"
            assert "[DONE]" not in events

    def test_as_many_answers_as_may_run(self, start: Start) -> None:
        with start("a", most_answers=1) as app:
            refused = app.post("/v1/chat/completions", messages=[said("hi")], n=2)
            assert self.error(refused) == (429, "rate_limit_error", "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "1"
            app.chat("hi")

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_body_that_is_too_large(self, start: Start, streamed: bool) -> None:
        with start(body_bytes=1000) as app:
            data = b'{"model": "' + b"x" * 2000
            content = iter([data[:500], data[500:]]) if streamed else data
            headers = {"content-type": "application/json"}
            refused = app.http.post("/v1/chat/completions", content=content, headers=headers)
            assert self.error(refused)[::2] == (413, "request_too_large")

    def test_a_body_of_another_kind_is_not_read(self, start: Start) -> None:
        with start() as app:
            refused = app.http.post("/v1/chat/completions", content="{}", headers={"content-type": "text/plain"})
            assert self.error(refused)[::2] == (415, "unsupported_media_type")

    def test_a_body_that_never_comes(self, start: Start) -> None:
        def slow() -> Iterator[bytes]:
            yield b"{"
            while app.http.get("/metrics").text.count('status="408"} 1.0') == 0:
                pass

        with start(body_seconds=0.2) as app:
            headers = {"content-type": "application/json"}
            refused = app.http.post("/v1/chat/completions", content=slow(), headers=headers)
            assert self.error(refused)[::2] == (408, "timed_out")

    def test_bounds_of_the_server_are_told_before_anything_is_spent(self, start: Start) -> None:
        with start() as app:
            app.server.limits = pb.Limits(prompt_tokens=60, new_tokens=50)
            long = app.post("/v1/chat/completions", messages=[said("x" * 100)])
            assert (long.json()["error"]["param"], long.json()["error"]["code"]) == (
                "messages",
                "context_length_exceeded",
            )
            vast = app.post("/v1/chat/completions", messages=[said("x" * 500), said("x" * 461)])
            assert vast.json()["error"]["message"].startswith("prompt tokens is '961 characters': at most 960 are read")
            text = app.post("/v1/completions", prompt="x" * 100).json()["error"]
            assert (text["param"], text["code"]) == ("prompt", "context_length_exceeded")
            many = app.post("/v1/chat/completions", messages=[said("x")], max_tokens=51)
            assert many.json()["error"]["param"] == "max_tokens"
            assert app.charged() == 0

    def test_what_the_template_or_the_options_refuse(self, start: Start) -> None:
        with start() as app:
            empty = app.post("/v1/chat/completions", messages=[said("")])
            assert (empty.status_code, empty.json()["error"]["param"]) == (400, "messages")
            top_p = app.post("/v1/chat/completions", messages=[said("x")], top_p=0)
            assert (top_p.status_code, top_p.json()["error"]["param"]) == (400, "top_p")

    def test_a_codec_that_the_server_has_no_more_is_asked_for_anew(self, start: Start) -> None:
        async def gone(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=5, message="no such codec"))

        with start(reply=gone) as app:
            assert app.post("/v1/chat/completions", messages=[said("hi")]).status_code == 502
            assert app.http.get("/health").json()["connected"] is False
            app.server.reply = Saying("ok")
            assert app.chat("hi")["del"]["charged_tokens"] == 0  # the same conversation: nothing is drawn anew
