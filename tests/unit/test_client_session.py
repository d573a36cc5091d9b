"""A client from prompt to certificate, against a recording server in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_fakes import (
    DIM,
    FakeServer,
    Serving,
    ServingThread,
    TinyCodec,
    client_arguments,
    finish,
    make_codec,
    segments_of,
)

from del_client import AsyncClient, Client, Ledger, Message, Shaping
from del_client.prepared import preview
from del_client.priors import TokenCap
from del_client.prompt import Span
from del_client.query import MAX_LOGPROBS
from del_client.report import attack_recovered, privacy_report
from del_codec import accounting
from del_codec.caps import cap_prior, cap_uniform
from del_codec.errors import InvalidValue, MismatchError, TimedOut, UnavailableError
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.v1 import inference_pb2 as pb

SETTING = NoiseSetting.from_mu(5, DIM, 2)
END_OF_SEQUENCE = 1


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TinyCodec:
    return make_codec(tmp_path_factory.mktemp("codec"))


@pytest.fixture
def server(codec: TinyCodec) -> FakeServer:
    return FakeServer(codec)


@pytest.fixture
async def client(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with Serving(server) as address, connect(address, codec, tmp_path) as client:
        yield client


def connect(address: str, codec: TinyCodec, folder: Path) -> AsyncClient:
    return AsyncClient(address, **client_arguments(codec, folder))


def sent(server: FakeServer, query_id: int = 1) -> list[pb.Segment]:
    return segments_of(server.requests(query_id))


def private(segments: Sequence[pb.Segment]) -> list[bytes]:
    return [segment.private.payload for segment in segments if segment.HasField("private")]


def public_text(client: AsyncClient, segments: Sequence[pb.Segment]) -> str:
    ids = [token for segment in segments for token in segment.public.token_ids]
    return client.reader.tokenizer.decode(ids, skip_special_tokens=False)


async def read(answer: Any) -> str:
    return "".join([delta.text async for delta in answer])


class Saying:
    """A server's replies: one word after the other, token by token, then an end-of-sequence token."""

    def __init__(self, client_or_codec: Any, *answers: str) -> None:
        self.tokenizer = client_or_codec.reader.tokenizer
        self.answers = list(answers)

    async def __call__(self, query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        text = self.answers.pop(0)
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            delta = pb.TokenDelta(token_ids=[token], text=self.tokenizer.decode([token]))
            yield pb.GenerateResponse(query_id=query_id, delta=delta)
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[END_OF_SEQUENCE]))
        yield finish(query_id, requests)


class TestAsking:
    async def test_words_go_as_bits_and_the_template_as_ids(self, client: AsyncClient, server: FakeServer) -> None:
        assert await read(client.generate("hi", mu=5, bits=2, max_new_tokens=3)) == "hello"
        before, words, after = sent(server)
        ids = client.reader.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False).ids
        assert list(before.public.token_ids) == ids
        assert (words.private.tokens, words.private.bits, words.private.noise_scale) == (2, 2, SETTING.scale)
        assert len(words.private.payload) == 2 * DIM * 2 // 8
        assert after.HasField("public")
        assert server.requests()[0].open.codec_fingerprint == bytes.fromhex(client.table.fingerprint)

    async def test_the_figures_of_an_answer(self, client: AsyncClient) -> None:
        answer = client.generate("hi", mu=5, bits=2)
        with pytest.raises(RuntimeError, match="not ended"):
            _ = answer.finish
        with pytest.raises(RuntimeError, match="nothing has been sent"):
            _ = answer.privacy
        assert await read(answer) == answer.text == "hello"
        assert answer.token_ids == [7, 8]
        assert answer.wire_bytes == answer.finish.wire_bytes == answer.usage.received_bytes
        assert 0 < answer.ttft_ms <= answer.total_ms
        cap = TokenCap(client.table, client.policy)
        assert answer.privacy == privacy_report(client.table, answer.prepared.segments, 1e-5, cap)
        with pytest.raises(RuntimeError, match="once"):
            await read(answer)

    async def test_leaving_an_answer_cancels_it(self, client: AsyncClient, server: FakeServer) -> None:
        server.reply = endless
        async for _ in client.generate("hi"):
            break
        async for _ in client.generate("hi"):  # a later query on the same stream, so the first one's cancel has arrived
            break
        assert server.requests(1)[-1].HasField("cancel")

    async def test_the_same_bits_may_be_sent_again_and_a_new_question_draws_new_ones(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        first = client.generate("a longer prompt")
        await read(first)
        await read(client.send(first.prepared))
        await read(client.generate("a longer prompt"))
        assert sent(server, 1) == sent(server, 2)
        assert private(sent(server, 1)) != private(sent(server, 3))

    async def test_public_messages_and_clear_prompts_go_as_ids(self, client: AsyncClient, server: FakeServer) -> None:
        chat = [Message("system", "be kind", public=True), {"role": "user", "content": "hi"}]
        answer = client.generate(chat, clear=True)
        await read(answer)
        text = "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert public_text(client, sent(server)) == text
        assert (answer.prepared.private_tokens, answer.prepared.payload_bytes, answer.privacy) == (0, 0, None)

    async def test_mappings_are_private_unless_they_say_otherwise(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi", "public": True}]
        await read(client.generate(chat))
        assert "hi" in public_text(client, sent(server))
        assert "be kind" not in public_text(client, sent(server))

    async def test_a_text_without_a_template(self, client: AsyncClient, server: FakeServer) -> None:
        await read(client.complete("once upon"))
        assert [segment.private.tokens for segment in sent(server)] == [9]

    async def test_the_default_setting(self, client: AsyncClient, server: FakeServer) -> None:
        await read(client.generate("hi"))
        assert sent(server)[1].private.noise_scale == NoiseSetting.from_mu(8, DIM, 1).scale

    async def test_sampling(self, client: AsyncClient, server: FakeServer) -> None:
        await read(client.generate("hi", temperature=0.5, top_p=0.9, top_k=7, logprobs=2))
        await read(client.generate("hi", temperature=0.5))
        await read(client.generate("hi"))
        options = [server.requests(query_id)[0].open.options for query_id in (1, 2, 3)]
        assert (options[0].top_k, options[0].logprobs) == (7, 2)
        # Chosen here, so that an answer that breaks off can go on.
        assert options[0].HasField("seed")
        assert options[0].seed != options[1].seed
        assert not options[2].HasField("seed")

    async def test_logprobs(self, client: AsyncClient, server: FakeServer) -> None:
        async def reply(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            top = [pb.TokenLogprob(token_id=7, logprob=-0.5), pb.TokenLogprob(token_id=8, logprob=-1.0)]
            delta = pb.TokenDelta(token_ids=[7], text="a", logprobs=[pb.TokenLogprobs(logprob=-0.5, top=top)])
            yield pb.GenerateResponse(query_id=query_id, delta=delta)
            yield finish(query_id, requests)

        server.reply = reply
        (delta,) = [delta async for delta in client.generate("hi", logprobs=2)]
        assert (delta.logprobs[0].logprob, delta.logprobs[0].top) == (-0.5, ((7, -0.5), (8, -1.0)))

    async def test_a_prompt_that_the_server_would_refuse_spends_nothing(self, codec: TinyCodec, tmp_path: Path) -> None:
        server = FakeServer(codec, limits=pb.Limits(prompt_tokens=20))
        async with Serving(server) as address, connect(address, codec, tmp_path) as client:
            with pytest.raises(InvalidValue, match="nothing was sent"):
                await read(client.generate("a" * 50))
        assert server.streams == []
        assert not (tmp_path / "ledger.sqlite3").exists()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"mu": -1}, InvalidValue, "mu is -1"),
            ({"bits": 9}, InvalidValue, "bits is 9"),
            ({"timeout": 0}, InvalidValue, "timeout is 0"),
            ({"logprobs": MAX_LOGPROBS + 1}, InvalidValue, "logprobs is 21"),
            ({"stop": "text"}, InvalidValue, "stop is 'text': use a list"),
            ({"stop": [""]}, InvalidValue, "stop is ''"),
            ({"tempo": 1}, TypeError, "no such option: tempo; there are mu, bits"),
        ],
    )
    async def test_bad_options(
        self, client: AsyncClient, server: FakeServer, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            await read(client.generate("hi", **options))
        assert server.streams == []

    @pytest.mark.parametrize("prompt", ["", [], [{"role": "user"}], [{"role": "user", "content": "a", "name": "b"}]])
    async def test_bad_prompts(self, client: AsyncClient, prompt: Any) -> None:
        with pytest.raises(InvalidValue):
            client.generate(prompt)


async def endless(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    for _ in range(500):
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="a"))


async def silent(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="a"))
    await asyncio.Event().wait()


class TestEnds:
    async def test_a_stop_string_ends_the_answer_before_it(self, client: AsyncClient, server: FakeServer) -> None:
        server.reply = Saying(client, "one, two, three. and so on", "x")
        answer = client.generate("count", stop=["four", "three"])
        assert await read(answer) == "one, two, "
        assert answer.finish.reason == "stop"
        assert answer.usage.new_tokens == len(answer.token_ids) == len("one, two, three")
        assert answer.usage.private_tokens == 5
        await read(client.generate("x"))
        assert server.requests(1)[-1].HasField("cancel")

    async def test_what_only_began_a_stop_string_is_given_in_the_end(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "tree thr")
        assert await read(client.generate("x", stop=["three"])) == "tree thr"

    async def test_an_answer_that_takes_too_long_is_cancelled(self, client: AsyncClient, server: FakeServer) -> None:
        server.reply = silent
        answer = client.generate("hi", timeout=0.2)
        with pytest.raises(TimedOut, match=r"longer than 0\.2 s"):
            await read(answer)
        assert answer.token_ids == [5]
        async for _ in client.generate("hi"):
            break
        assert server.requests(1)[-1].HasField("cancel")

    async def test_an_answer_without_an_end_is_cut_off(
        self, client: AsyncClient, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.reply = endless
        answer = client.generate("hi", max_new_tokens=20)
        with pytest.raises(MismatchError, match="21 tokens, more than were asked for"):
            await read(answer)
        assert len(answer.token_ids) == 20
        monkeypatch.setattr("del_client.answer.MAX_ANSWER_CHARS", 30)
        with pytest.raises(MismatchError, match="over 30 characters"):
            await read(client.generate("hi"))
        assert server.requests(1)[-1].HasField("cancel")

    async def test_a_callers_own_timeout_is_its_own(self, client: AsyncClient, server: FakeServer) -> None:
        server.reply = silent
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await read(client.generate("hi", timeout=60))
        assert not isinstance(caught.value, TimedOut)


class TestConversation:
    async def test_later_turns_send_the_same_bits_and_the_servers_own_ids(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "one", "two", "three")
        talk = client.conversation("be kind", mu=5)
        for question in ("first", "second", "third"):
            await read(talk.generate(question))
        bits = [private(sent(server, query_id)) for query_id in (1, 2, 3)]
        assert bits[1][:1] == bits[0]
        assert bits[2][:2] == bits[1]
        assert len(bits[2]) == 3
        assert "be kind" in public_text(client, sent(server, 3))
        assert "one<|im_end|>\n" in public_text(client, sent(server, 3))
        assert "two<|im_end|>\n" in public_text(client, sent(server, 3))
        assert [message.content for message in talk.messages] == [
            "be kind",
            "first",
            "one",
            "second",
            "two",
            "third",
            "three",
        ]

    async def test_answers_go_back_as_the_ids_that_came_whatever_a_tokenizer_would_make_of_them(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        async def odd(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[250, 251, 252], text="odd"))
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[END_OF_SEQUENCE]))
            yield finish(query_id, requests)

        server.reply = odd
        talk = client.conversation()
        await read(talk.generate("a"))
        await read(talk.generate("b"))
        ids = [list(segment.public.token_ids) for segment in sent(server, 2)]
        assert [250, 251, 252] in ids

    async def test_a_change_of_noise_leaves_earlier_messages_as_they_were_sent(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        talk = client.conversation(mu=5, bits=2)
        await read(talk.generate("first"))
        talk.options = {"mu": 9, "bits": 1}
        await read(talk.generate("second"))
        bits = [segment.private.bits for segment in sent(server, 2) if segment.HasField("private")]
        assert bits == [2, 1]
        assert private(sent(server, 2))[0] == private(sent(server, 1))[0]

    async def test_retry_asks_for_another_answer_with_the_same_bits(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "one", "two", "three")
        talk = client.conversation()
        with pytest.raises(InvalidValue, match="ask something first"):
            talk.retry()
        await read(talk.generate("first"))
        assert await read(talk.retry(temperature=1.0)) == "two"
        assert sent(server, 2) == sent(server, 1)
        assert [message.content for message in talk.messages] == ["first", "two"]
        await read(talk.generate("second"))
        assert private(sent(server, 3))[0] == private(sent(server, 1))[0]

    async def test_an_answer_that_is_left_stays_as_far_as_it_came(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "endless", "more")
        talk = client.conversation()
        deltas = aiter(talk.generate("first"))
        assert [(await anext(deltas)).text for _ in range(3)] == ["e", "n", "d"]
        with pytest.raises(InvalidValue, match="busy"):
            talk.generate("second")
        await deltas.aclose()
        await read(talk.generate("second"))
        assert [message.content for message in talk.messages] == ["first", "end", "second", "more"]
        assert "end<|im_end|>" in public_text(client, sent(server, 2))

    async def test_after_leaving_a_loop_the_conversation_goes_on_at_once(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "endless", "more")
        talk = client.conversation()
        async for delta in talk.generate("first"):
            if delta.text == "d":
                break
        assert await read(talk.generate("second")) == "more"
        assert [message.content for message in talk.messages] == ["first", "end", "second", "more"]

    async def test_an_answer_that_fails_leaves_no_trace_and_may_be_tried_again(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        async def refuse(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="a"))
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=13, message="broken"))

        talk = client.conversation()
        server.reply = refuse
        with pytest.raises(Exception, match="broken"):
            await read(talk.generate("first"))
        assert talk.messages == ()
        server.reply = Saying(client, "one", "two")
        assert await read(talk.retry()) == "one"
        assert sent(server, 2) == sent(server, 1)
        await read(talk.generate("second"))
        assert [message.content for message in talk.messages] == ["first", "one", "second", "two"]

    async def test_a_placeholder_stands_for_a_secret_and_comes_back_as_it(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        server.reply = Saying(client, "hello [SECRET_1]!", "yes, [SECRET_1]")
        talk = client.conversation()
        answer = talk.generate("my name is {{Ada}}")
        assert await read(answer) == answer.text == "hello Ada!"
        assert "[SECRET_1]" in public_text(client, sent(server, 1))
        assert await read(talk.generate("am I Ada?")) == "yes, Ada"
        later = public_text(client, sent(server, 2))
        assert "hello [SECRET_1]!<|im_end|>" in later
        assert "Ada" not in later
        assert later.count("[SECRET_1]") == 3

    async def test_two_conversations_share_nothing(self, client: AsyncClient, server: FakeServer) -> None:
        for _ in range(2):
            await read(client.conversation().generate("the same words"))
        assert private(sent(server, 1)) != private(sent(server, 2))


class TestReports:
    async def test_what_would_leave_and_nothing_does(
        self, client: AsyncClient, server: FakeServer, tmp_path: Path
    ) -> None:
        report = client.embed_report("I am {{Ada}}.", mu=5, bits=2)
        answer = client.generate("I am {{Ada}}.", mu=5, bits=2)
        assert server.streams == []
        assert not (tmp_path / "ledger.sqlite3").exists()
        await read(answer)
        assert report.wire_bytes == answer.wire_bytes
        assert report.payload_bytes == answer.prepared.payload_bytes
        assert (report.prompt_tokens, report.private_tokens) == (answer.prepared.prompt_tokens, 6)
        assert report.public_tokens == report.prompt_tokens - 6
        assert report.privacy == answer.privacy
        (span,) = report.protected
        assert (span.kind, span.tokens, span.placeholder) == ("secret", len("[SECRET_1]"), True)
        text = " ".join(report.sentences())
        for words in ("6 of them private", "a placeholder", "epsilon", "same public structure"):
            assert words in text

    async def test_of_a_prompt_in_the_clear(self, client: AsyncClient) -> None:
        report = client.embed_report("hi", clear=True)
        assert (report.private_tokens, report.privacy) == (0, None)
        assert "Nothing in this prompt is private." in report.sentences()


class TestBlocking:
    def test_the_same_without_an_event_loop(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            assert client.info.model == "tiny"
            answer = client.generate("hi", mu=5)
            assert "".join(delta.text for delta in answer) == answer.text == "hello"
            talk = client.conversation()
            for _ in range(2):
                for _ in talk.generate("again"):
                    pass
            assert client.embed_report("hi").private_tokens == 2
            assert [len(private(sent(server, query_id))) for query_id in (1, 2, 3)] == [1, 1, 2]

    def test_leaving_the_loop_cancels(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        server.reply = endless
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            for _ in client.generate("hi"):
                break
            for _ in client.generate("hi"):
                break
            assert server.requests(1)[-1].HasField("cancel")

    def test_errors_come_out_as_they_are(self, codec: TinyCodec, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no server answers"), Client("127.0.0.1:1"):
            pass
        with ServingThread(FakeServer(codec)) as address:
            client = Client(address, **client_arguments(codec, tmp_path))
            with client, pytest.raises(InvalidValue, match="mu is -1"):
                list(client.generate("hi", mu=-1))
            with pytest.raises(RuntimeError, match="closed"):
                list(client.generate("hi"))

    def test_one_that_was_not_entered(self) -> None:
        for client in (Client("127.0.0.1:1"), AsyncClient("127.0.0.1:1")):
            with pytest.raises(RuntimeError, match="enter the client first"):
                client.generate("hi")
            assert not hasattr(client, "colour")

    def test_threads_may_share_one(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        with ServingThread(server) as address, Client(address, **client_arguments(codec, tmp_path)) as client:
            texts: list[str] = []

            def ask() -> None:
                texts.append("".join(delta.text for delta in client.generate("hi")))

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert texts == ["hello"] * 8

    async def test_an_asynchronous_answer_is_not_iterated_with_for(self, client: AsyncClient) -> None:
        with pytest.raises(TypeError, match="async for"):
            list(client.generate("hi"))

    def test_a_ledger_of_the_callers_own_stays_open(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        options = client_arguments(codec, tmp_path)
        with Ledger(tmp_path / "own.sqlite3") as ledger, ServingThread(server) as address:
            for _ in range(2):
                with Client(address, **{**options, "ledger": ledger}) as client:
                    list(client.generate("hi"))
        assert not (tmp_path / "ledger.sqlite3").exists()


class TestConnecting:
    async def test_the_codec_is_fetched_once(self, server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
        async with Serving(server) as address:
            for _ in range(2):
                async with connect(address, codec, tmp_path) as client:
                    assert client.table.fingerprint == codec.fingerprint.hex()
        assert server.downloads == 1

    async def test_a_codec_that_is_not_what_was_announced(self, codec: TinyCodec, tmp_path: Path) -> None:
        server = FakeServer(codec, download=codec.data[:-1] + bytes([codec.data[-1] ^ 1]))
        async with Serving(server) as address:
            with pytest.raises(MismatchError, match="nothing was sent"):
                async with connect(address, codec, tmp_path):
                    pass
        assert server.streams == []

    async def test_a_codec_for_another_tokenizer(self, codec: TinyCodec, tmp_path: Path) -> None:
        other = make_codec(tmp_path / "other", tokenizer_sha256="1" * 64)
        async with Serving(FakeServer(other)) as address:
            with pytest.raises(MismatchError, match="--tokenizer FILE"):
                async with connect(address, codec, tmp_path):
                    pass

    async def test_a_server_without_a_codec(self, codec: TinyCodec, tmp_path: Path) -> None:
        async with Serving(FakeServer(None)) as address:
            with pytest.raises(MismatchError, match="without a codec"):
                async with connect(address, codec, tmp_path):
                    pass

    async def test_no_server(self, codec: TinyCodec, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no server answers"):
            async with connect("127.0.0.1:1", codec, tmp_path):
                pass


class TestPrepare:
    def test_spans_longer_than_a_segment_are_cut(self, codec: TinyCodec) -> None:
        count = MAX_SEGMENT_TOKENS + 3
        spans = [Span((1,) * count, private=False), Span((2,) * count, private=True)]
        prepared = preview(codec.table, spans, SETTING)
        assert [segment.tokens for segment in prepared.segments] == [MAX_SEGMENT_TOKENS, 3] * 2
        kinds = [PublicSegment, PublicSegment, PrivateSegment, PrivateSegment]
        assert [type(segment) for segment in prepared.segments] == kinds
        assert (prepared.prompt_tokens, prepared.private_tokens) == (2 * count, count)

    def test_an_id_that_the_codec_does_not_know(self, codec: TinyCodec) -> None:
        with pytest.raises(InvalidValue, match="token_id is 300"):
            preview(codec.table, [Span((300,), private=True)], SETTING)


class TestReport:
    def test_the_certificate_is_that_of_the_integers(self, codec: TinyCodec) -> None:
        table = codec.table
        prepared = preview(table, [Span((5, 6, 7), True), Span((1,), False), Span((8, 9), True)], SETTING)
        report = privacy_report(table, prepared.segments, 1e-5)
        assert report is not None
        one = accounting.Release(DIM * 3, SETTING.threshold_max(127))
        prompt = accounting.Release(5 * DIM * 3, SETTING.threshold_max(127))
        assert table.largest_latent == 127
        assert report.private_tokens == 5
        assert report.epsilon_token == accounting.epsilon(one, 1e-5)
        assert report.epsilon_prompt == pytest.approx(accounting.epsilon(prompt, 1e-5), rel=1e-9)
        assert report.cap_uniform == cap_uniform(one, 300)
        assert report.cap_prior == cap_prior(one, table.prior)
        assert report.bits == 2
        assert report.mu == pytest.approx(5, rel=1e-3)

    def test_a_table_that_does_not_reach_its_corners_certifies_better(self, codec: TinyCodec) -> None:
        smaller = replace(codec.table, latents=(codec.table.latents // 2).astype(np.int8))
        full, half = (accounting.epsilon(release_of(table, SETTING, 1), 1e-5) for table in (codec.table, smaller))
        assert half < full

    def test_delta_out_of_range(self, codec: TinyCodec) -> None:
        prepared = preview(codec.table, [Span((5,), True)], SETTING)
        for delta in (-0.1, 1.0, float("nan")):
            with pytest.raises(InvalidValue, match="delta"):
                privacy_report(codec.table, prepared.segments, delta)

    def test_the_words_say_what_the_numbers_assume(self, codec: TinyCodec) -> None:
        report = privacy_report(codec.table, preview(codec.table, [Span((5,), True)], SETTING).segments, 1e-5)
        assert report is not None
        text = " ".join(report.sentences())
        for words in ("context-free", "same public structure", "delta 1e-05", "one token"):
            assert words in text

    def test_the_attack_reads_weak_noise_and_not_strong(self, codec: TinyCodec) -> None:
        spans = [Span(tuple(range(0, 120)), True), Span((1,), False), Span(tuple(range(120, 240)), True)]
        shares = []
        for mu in (0.01, 400):
            prepared = preview(codec.table, spans, NoiseSetting.from_mu(mu, DIM, 8))
            shares.append(attack_recovered(codec.table, prepared.spans, prepared.segments))
        assert shares[0] < 0.05
        assert shares[1] > 0.95


async def test_a_shaping_is_asked_of_the_server_and_kept_to(
    codec: TinyCodec, server: FakeServer, tmp_path: Path
) -> None:
    arguments = {**client_arguments(codec, tmp_path), "shaping": Shaping(tokens=4, bucket_bytes=512)}
    async with Serving(server) as address, AsyncClient(address, **arguments) as client:
        report = client.embed_report("hi")
        assert await read(client.generate("hi")) == "hello"
    assert server.requests()[0].open.shaping == pb.Shaping(tokens=4, bucket_bytes=512)
    assert {request.ByteSize() % 512 for request in server.requests()} == {0}
    assert report.wire_bytes == sum(request.ByteSize() + 5 for request in server.requests())
