"""What the gateway refuses, and how a caller is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from client_fakes import TinyCodec
from gateway_app import Start, said, starting
from gateway_fakes import Saying

from del_client import Policy
from del_codec.v1 import inference_pb2 as pb

POLICY_OF_KINDS = Policy.from_toml("[kinds.email]")


@pytest.fixture
def start(codec: TinyCodec, tmp_path: Path) -> Start:
    return starting(codec, tmp_path)


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

    @pytest.mark.parametrize("body", [{"model": "x" * 100_000}, {"x" * 100_000: 1}, {"del": {"mu": 10**4000}}])
    def test_what_was_sent_is_not_sent_back_whole(self, start: Start, body: dict[str, Any]) -> None:
        with start() as app:
            refused = app.post("/v1/chat/completions", messages=[said("hi")], **body)
            assert refused.status_code in (400, 404)
            assert len(refused.text) < 4000

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
            for mu in (-1, 0):
                refused = app.post("/v1/chat/completions", messages=[said("x")], **{"del": {"mu": mu}}).json()["error"]
                assert refused["param"] == "del.mu"
                assert "use a finite number above zero" in refused["message"]
            for penalty in (-1, 0, 11):
                body = {"messages": [said("x")], "del": {"repetition_penalty": penalty}}
                refused = app.post("/v1/chat/completions", **body).json()["error"]
                assert (refused["param"], "use 0.1 to 10" in refused["message"]) == ("del.repetition_penalty", True)
            assert app.charged() == 0

    def test_a_codec_that_the_server_has_no_more_is_asked_for_anew(self, start: Start) -> None:
        async def gone(query_id: int, requests: Any) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=5, message="no such codec"))

        with start(reply=gone) as app:
            assert app.post("/v1/chat/completions", messages=[said("hi")]).status_code == 502
            assert app.http.get("/health").json()["connected"] is False
            app.server.reply = Saying("ok")
            assert app.chat("hi")["del"]["charged_tokens"] == 0  # the same conversation: nothing is drawn anew
