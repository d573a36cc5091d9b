"""Prompts before they leave, and what is certified of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from client_fakes import DIM, FakeServer, TinyCodec
from client_talk import read

from del_client import AsyncClient
from del_client.prepared import preview
from del_client.prompt import Span
from del_client.report import attack_recovered, privacy_report
from del_codec import accounting
from del_codec.caps import cap_prior, cap_uniform
from del_codec.errors import InvalidValue
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.released import release_of

SETTING = NoiseSetting.from_mu(5, DIM, 2)


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
