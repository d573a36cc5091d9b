"""A client from prompt to answer, against a recording server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from client_fakes import DIM, FakeServer, Serving, TinyCodec, client_arguments, finish
from client_talk import Saying, connect, endless, private, public_text, read, sent

from del_client import AsyncClient, Message, Shaping
from del_client.priors import TokenCap
from del_client.query import MAX_LOGPROBS
from del_client.report import privacy_report
from del_codec.errors import InvalidValue, MismatchError, TimedOut
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

SETTING = NoiseSetting.from_mu(5, DIM, 2)


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
        answer = client.generate("hi", timeout=2.0)
        with pytest.raises(TimedOut, match=r"longer than 2 s"):
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
