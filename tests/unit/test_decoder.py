"""PromptDecoder: the segments of one prompt to embeddings, as the server decodes them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_table import bayes, small_table
from torch import nn

from del_codec.encode import encode
from del_codec.errors import FrameError, InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.projection import ContextDecoder, LinearDecoder, ProjectionConfig
from del_server.decoder import LEAST_WIDTH, PromptDecoder, share_no_threads
from del_server.posterior import TOLERANCE

TABLE = small_table()
SPEC = TABLE.spec
EMBEDDINGS = torch.randn(SPEC.vocabulary, SPEC.embedding_width, generator=torch.Generator().manual_seed(0))
CONFIG = ProjectionConfig(
    dim=SPEC.dim, embedding_width=SPEC.embedding_width, embedding_rms=1.0, width=16, layers=2, heads=2
)
IDS = [3, 0, 7, 7, 21, 1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def untrained() -> PromptDecoder:
    return PromptDecoder(TABLE, ContextDecoder(CONFIG), EMBEDDINGS)


def trained() -> PromptDecoder:
    network = ContextDecoder(CONFIG)
    for last in (network.keep, network.write):
        nn.init.normal_(last.weight)
    return PromptDecoder(TABLE, network, EMBEDDINGS)


def expectation(segment: PrivateSegment) -> torch.Tensor:
    """E[embedding | levels] by brute force."""
    posterior = bayes(TABLE, segment.levels(SPEC.dim), segment.setting, TABLE.prior)
    return torch.from_numpy(posterior).float() @ EMBEDDINGS


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mu", [0.5, 5, 50])
def test_an_untrained_decoder_gives_the_posterior_mean(bits: int, mu: float) -> None:
    private = encode(TABLE, IDS, NoiseSetting.from_mu(mu, SPEC.dim, bits))
    assert torch.allclose(untrained()([private]), expectation(private), atol=2e-3)


def test_each_segment_is_read_at_its_own_setting_and_public_ones_are_the_models_own() -> None:
    weak = encode(TABLE, IDS, NoiseSetting.from_mu(50, SPEC.dim, 4))
    strong = encode(TABLE, IDS, NoiseSetting.from_mu(0.5, SPEC.dim, 1))
    found = untrained()([PublicSegment((5, 23)), weak, strong, PublicSegment((0,))])
    expected = [EMBEDDINGS[[5, 23]], expectation(weak), expectation(strong), EMBEDDINGS[[0]]]
    assert torch.allclose(found, torch.cat(expected), atol=2e-3)
    assert torch.equal(found[:2], expected[0])
    assert torch.equal(found[-1:], expected[-1])


def test_public_positions_stay_as_they_are_under_a_trained_decoder() -> None:
    private = encode(TABLE, IDS, NoiseSetting.from_mu(5, SPEC.dim, 1))
    found = trained()([PublicSegment((5,)), private, PublicSegment((6, 7))])
    assert torch.equal(found[[0, -2, -1]], EMBEDDINGS[[5, 6, 7]])
    assert not torch.allclose(found[1:-2], expectation(private), atol=0.1)


def test_a_segment_cut_in_two_decodes_as_one() -> None:
    setting = NoiseSetting.from_mu(5, SPEC.dim, 2)  # 4 coordinates of 2 bits: a byte a token
    whole = encode(TABLE, IDS, setting)
    parts = [PrivateSegment(setting, 2, whole.payload[:2]), PrivateSegment(setting, 4, whole.payload[2:])]
    decoder = trained()
    assert torch.allclose(decoder(parts), decoder([whole]), atol=1e-5)


def test_a_long_segment_decodes_as_its_tokens_do() -> None:
    private = encode(TABLE, np.arange(700) % SPEC.vocabulary, NoiseSetting.from_mu(5, SPEC.dim, 3))
    assert torch.allclose(untrained()([private]), expectation(private), atol=2e-3)


def test_more_settings_than_are_remembered_are_each_read_right() -> None:
    decoder = untrained()
    for mu in [*range(1, 13), *range(1, 13)]:
        private = encode(TABLE, IDS, NoiseSetting.from_mu(mu, SPEC.dim, 1))
        assert torch.allclose(decoder([private]), expectation(private), atol=2e-3)


def test_the_linear_decoder_reads_latents_alone() -> None:
    network = LinearDecoder(replace(CONFIG, decoder="linear"))
    private = encode(TABLE, IDS, NoiseSetting.from_mu(5, SPEC.dim, 3))
    latents = torch.from_numpy(private.latents(SPEC.dim))
    found = PromptDecoder(TABLE, network, EMBEDDINGS)([private, PublicSegment((9,))])
    assert torch.allclose(found, torch.cat([latents @ network.project.weight.T, EMBEDDINGS[[9]]]), atol=1e-5)


def test_embeddings_come_back_in_the_models_own_type() -> None:
    decoder = PromptDecoder(TABLE, ContextDecoder(CONFIG), EMBEDDINGS.to(torch.bfloat16))
    private = encode(TABLE, IDS, NoiseSetting.from_mu(5, SPEC.dim, 1))
    found = decoder([private, PublicSegment((4,))])
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found[:-1].float(), expectation(private), atol=0.05)
    assert torch.equal(found[-1], EMBEDDINGS[4].to(torch.bfloat16))


def test_wide_embeddings_are_averaged_nearly_as_exactly() -> None:
    wide = torch.cat([EMBEDDINGS, torch.randn(SPEC.vocabulary, LEAST_WIDTH - SPEC.embedding_width)], dim=1)
    network = ContextDecoder(replace(CONFIG, embedding_width=LEAST_WIDTH))
    private = encode(TABLE, np.arange(70) % SPEC.vocabulary, NoiseSetting.from_mu(5, SPEC.dim, 1))
    posterior = torch.from_numpy(bayes(TABLE, private.levels(SPEC.dim), private.setting, TABLE.prior)).float()
    found = PromptDecoder(TABLE, network, wide)([private])
    assert (found - posterior @ wide).norm(dim=1).max() <= TOLERANCE * wide.norm(dim=1).mean()


@pytest.mark.parametrize("outside", [-1, SPEC.vocabulary, 1 << 31])
def test_a_public_id_that_the_model_lacks_is_named(outside: int) -> None:
    with pytest.raises(InvalidValue, match=f"token_ids is {outside}: the model knows ids 0 to 23"):
        untrained()([PublicSegment((0, outside, 5))])


def test_a_payload_that_is_not_canonical_is_refused() -> None:
    setting = NoiseSetting.from_mu(5, SPEC.dim, 1)
    with pytest.raises(FrameError, match="must be zero"):
        untrained()([PrivateSegment(setting, 1, b"\x0f")])
    with pytest.raises(FrameError, match="1 tokens of 4 coordinates at 1 bits take 1 bytes"):
        untrained()([PublicSegment((1,)), PrivateSegment(setting, 1, b"\0\0")])


def test_a_thread_that_shares_no_threads_takes_none_from_others() -> None:
    def threads() -> int:
        return torch.get_num_threads()

    before = threads()
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(1, initializer=share_no_threads) as alone, ThreadPoolExecutor(1) as later:
            assert alone.submit(threads).result() == 1
            assert later.submit(threads).result() == threads() == 3
    finally:
        torch.set_num_threads(before)
