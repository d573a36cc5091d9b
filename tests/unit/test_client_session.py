"""AsyncClient from prompt to certificate, against a recording server in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from client_fakes import DIM, FakeServer, Serving, TinyCodec, make_codec

from del_client.codec_cache import CodecCache
from del_client.prepared import preview
from del_client.prompt import Message, Span, as_public
from del_client.query import GenerationOptions
from del_client.report import attack_recovered, privacy_report, release_of
from del_client.session import AsyncClient
from del_codec import accounting
from del_codec.caps import cap_prior, cap_uniform
from del_codec.errors import InvalidValue, MismatchError, UnavailableError
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

SETTING = NoiseSetting.from_mu(5, DIM, 2)


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


def connect(address: str, codec: TinyCodec, cache: Path) -> AsyncClient:
    return AsyncClient(address, tokenizer=codec.tokenizer, chat_template=codec.chat_template, cache=CodecCache(cache))


def sent(server: FakeServer, query_id: int = 1) -> list[pb.Segment]:
    return [piece for request in server.requests(query_id) for piece in request.segments.segments]


class TestAsking:
    async def test_words_go_as_bits_and_the_template_as_ids(self, client: AsyncClient, server: FakeServer) -> None:
        answer = client.ask("hi", SETTING, GenerationOptions(max_new_tokens=3))
        assert "".join([delta.text async for delta in answer]) == "hello"
        before, words, after = sent(server)
        ids = client.reader.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False).ids
        assert list(before.public.token_ids) == ids
        assert (words.private.tokens, words.private.bits, words.private.noise_scale) == (2, 2, SETTING.scale)
        assert len(words.private.payload) == 2 * DIM * 2 // 8
        assert after.HasField("public")
        assert server.requests()[0].open.codec_fingerprint == bytes.fromhex(client.table.fingerprint)

    async def test_the_figures_of_an_answer(self, client: AsyncClient) -> None:
        answer = client.ask("hi")
        with pytest.raises(RuntimeError, match="not ended"):
            _ = answer.finish
        async for _ in answer:
            pass
        assert answer.finish.wire_bytes == answer.finish.usage.received_bytes
        assert 0 < answer.ttft_ms <= answer.total_ms

    async def test_leaving_an_answer_cancels_it(self, client: AsyncClient, server: FakeServer) -> None:
        async def endless(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(500):
                yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text="a"))

        server.reply = endless
        async for _ in client.ask("hi"):
            break
        async for _ in client.ask("hi"):  # a later query on the same stream, so the first one's cancel has arrived
            break
        assert server.requests(1)[-1].HasField("cancel")

    async def test_the_same_bits_may_be_sent_again_and_a_new_ask_draws_new_ones(
        self, client: AsyncClient, server: FakeServer
    ) -> None:
        prepared = client.prepare(client.spans("a longer prompt"), SETTING)
        for answer in (client.send(prepared), client.send(prepared), client.ask("a longer prompt", SETTING)):
            async for _ in answer:
                pass
        first, second, third = (sent(server, query_id) for query_id in (1, 2, 3))
        assert first == second
        assert first != third

    async def test_public_messages_and_public_prompts_go_as_ids(self, client: AsyncClient, server: FakeServer) -> None:
        chat = [Message("system", "be kind", public=True), Message("user", "hi")]
        prepared = client.prepare(as_public(client.spans(chat)), SETTING)
        async for _ in client.send(prepared):
            pass
        text = "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert list(sent(server)[0].public.token_ids) == client.reader.tokenizer.encode(text).ids
        assert (prepared.private_tokens, prepared.payload_bytes) == (0, 0)
        assert client.privacy(prepared) is None

    async def test_the_default_setting(self, client: AsyncClient, server: FakeServer) -> None:
        async for _ in client.ask("hi"):
            pass
        assert sent(server)[1].private.noise_scale == NoiseSetting.from_mu(8, DIM, 1).scale


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
