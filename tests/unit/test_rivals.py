"""Rivals: each is what its source says, and is measured with the same attacks and bounds as a codec."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import stats

from del_codec.errors import InvalidValue
from del_server.codec import REFERENCES_FILE, ServedCodec
from del_server.evaluation.contest import contest, rival_table, rivals
from del_server.evaluation.denoise import DenoisedModel, Denoiser
from del_server.evaluation.rivals import (
    GaussianLatents,
    MetricPrivacy,
    PlainText,
    RandomAdjacency,
    RoundedEmbeddings,
    gaussian_epsilon,
)
from del_server.evaluation.study import Study, Windows

IDS = np.random.default_rng(0).integers(0, 259, (6, 10))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def embeddings(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.get_input_embeddings().weight.detach()
    return weight


@pytest.fixture(scope="module")
def codec(tiny_codec: Path, model: Any) -> ServedCodec:
    return ServedCodec.load(tiny_codec, model)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_plain_text_and_rounded_embeddings_hide_nothing(embeddings: torch.Tensor) -> None:
    for rival in (PlainText(embeddings), RoundedEmbeddings(embeddings, 16), RoundedEmbeddings(embeddings, 8)):
        observed = rival.observe(IDS)
        assert np.array_equal(rival.log_likelihood(observed.flatten(0, 1)).argmax(dim=1).view(IDS.shape), IDS)
        assert rival.embed(observed) == pytest.approx(embeddings[torch.from_numpy(IDS)], abs=0.01)
    assert [RoundedEmbeddings(embeddings, bits).bytes_per_token for bits in (16, 8)] == [64, 34]
    assert PlainText(embeddings).bytes_per_token == 2


def test_metric_noise_has_the_length_and_the_directions_of_its_source(embeddings: torch.Tensor) -> None:
    rival = MetricPrivacy(embeddings, 50.0, snap=False)
    ids = np.full((1, 4000), 7)
    noise = (rival.observe(ids)[0] - embeddings[7]).double()
    length = noise.norm(dim=1)
    # D = 32 degrees: Gamma(32, scale 1/50).
    assert stats.kstest(length.numpy(), stats.gamma(32, scale=1 / 50).cdf).pvalue > 1e-3
    directions = noise / length[:, None]
    assert float((directions.T @ directions / 4000 - torch.eye(32) / 32).abs().max()) < 0.01
    # The likelihood ratio is the density's: eta times the difference of distances.
    scores = rival.log_likelihood(rival.observe(ids)[0, :5])
    assert float(scores.max()) <= 0


def test_metric_noise_can_be_snapped_to_the_nearest_token(embeddings: torch.Tensor) -> None:
    rival = MetricPrivacy(embeddings, 1e4, snap=True)
    assert torch.equal(rival.embed(rival.observe(IDS)), embeddings[torch.from_numpy(IDS)])


def test_the_gaussian_has_the_noise_that_its_mu_asks_for(codec: ServedCodec, embeddings: torch.Tensor) -> None:
    rival = GaussianLatents(codec, embeddings, 8.0)
    ids = np.full((1, 4000), 7)
    noise = rival.observe(ids)[0].numpy() - codec.table.latents[7] / 127
    assert noise.std() == pytest.approx(2 * math.sqrt(16) / 8, rel=0.02)
    assert rival.embed(rival.observe(IDS)).shape == (6, 10, 32)
    weak = GaussianLatents(codec, embeddings, 1e5)
    seen = weak.observe(IDS)
    assert np.array_equal(weak.log_likelihood(seen.flatten(0, 1)).argmax(dim=1).view(IDS.shape), IDS)


def test_epsilon_of_a_gaussian() -> None:
    # The delta of mu-GDP at the epsilon found is the delta that was asked for.
    for mu in (0.5, 1.0, 5.0, 40.0):
        epsilon = gaussian_epsilon(mu, 1e-5)
        first, second = stats.norm.cdf(-epsilon / mu + mu / 2), stats.norm.logcdf(-epsilon / mu - mu / 2)
        assert first - math.exp(epsilon + second) == pytest.approx(1e-5, rel=1e-3)
    assert gaussian_epsilon(1e-6, 1e-5) == 0


def test_replacements_lie_in_the_radius_and_nearer_ones_are_likelier(embeddings: torch.Tensor) -> None:
    strong, weak = RandomAdjacency.of(embeddings, 1.0), RandomAdjacency.of(embeddings, 400.0)
    ids = np.full((1, 500), 7)
    kept = [float((rival.observe(ids) == 7).float().mean()) for rival in (strong, weak)]
    assert kept[0] < 0.1 < kept[1]
    for rival in (strong, weak):
        far = (embeddings[rival.observe(ids)[0]] - embeddings[7]).norm(dim=1)
        assert float(far.max()) <= 2 * float(rival.radii.max())


def test_the_estimated_likelihood_of_a_replacement_is_that_of_its_draws(embeddings: torch.Tensor) -> None:
    rival = RandomAdjacency.of(embeddings, 1.9)
    drawn = torch.bincount(rival.observe(np.full((1, 60_000), 7))[0], minlength=259) / 60_000
    told = rival.log_likelihood(torch.arange(259))[:, 7].exp()
    common = drawn > 0.002
    assert int(common.sum()) > 5
    assert float(told.sum()) == pytest.approx(1, abs=0.1)
    off = (told[common] / drawn[common] - 1).abs()  # 120 draws of a token at least: a tenth is chance
    assert float(off.max()) < 0.5
    assert float(off.mean()) < 0.12


def test_a_normaliser_from_a_sample_never_forgets_the_token_itself(
    embeddings: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = RandomAdjacency.of(embeddings, 12.0).log_normalisers
    monkeypatch.setattr("del_server.evaluation.rivals._SAMPLE", 40)
    sampled = RandomAdjacency.of(embeddings, 12.0).log_normalisers
    assert bool(sampled.isfinite().all())
    assert float((sampled - exact).abs().max()) < 0.5


def test_bad_settings_are_named(embeddings: torch.Tensor) -> None:
    with pytest.raises(InvalidValue, match="eta"):
        MetricPrivacy(embeddings, 0, snap=True)
    with pytest.raises(InvalidValue, match="epsilon"):
        RandomAdjacency.of(embeddings, -1.0)
    with pytest.raises(InvalidValue, match="bits"):
        RoundedEmbeddings(embeddings, 4)


def test_rivals_are_measured_on_the_same_windows(tiny_codec: Path, model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_codec, tmp_path / "codec")
    soft = ServedCodec.load(folder, model).soft_prompt.clone()
    safetensors.torch.save_file({"floor": soft.flip(0) * 2, "ceiling": soft}, folder / REFERENCES_FILE)
    study = Study(model, [folder], np.array([0]), width=3)
    text = Windows.of("text", np.arange(3000) % 259, count=12, prompt=12, continuation=6)
    entrants = rivals(study, [5.0], [30.0], [10.0])
    rows = {row.name: row for row in contest(study, text, entrants, ("prior", "nn", "map", "beam", "inversion"))}
    assert len(rows) == len(entrants) == 7
    plain = rows["plain ids"]
    assert {name: read.mean for name, read in plain.attacks.items() if name != "prior"} == {
        "nn": 1,
        "map": 1,
        "beam": 1,
    }
    bounds = study.bounds(0, text)
    # Plain ids are the clean prompt: what is retained is what the clean prompt itself is worth.
    clean = min(float(bounds.plain.mean()), float(bounds.ceiling.mean()))
    assert plain.nll.mean == pytest.approx(clean, rel=0.02)
    assert rows["fp16 embeddings"].nll.mean == pytest.approx(plain.nll.mean, rel=1e-2)
    assert rows["Gaussian mu 5, fp16 latents"].reading == "as the codec's"
    table = rival_table(list(rows.values())).splitlines()
    assert len(table) == 2 + len(rows)
    assert all(line.count("|") == table[0].count("|") for line in table)
    with pytest.raises(InvalidValue, match="attacks"):
        contest(study, text, entrants, ["inversion"])


def test_a_denoiser_learns_to_read_through_the_noise(model: Any, embeddings: torch.Tensor) -> None:
    stream = torch.arange(4000) % 20 + 30
    windows = stream[:360].view(20, 18)
    prompt, target = windows[:, :12], windows[:, 12:]
    rival = DenoisedModel(model, embeddings, 20.0)
    before = rival.losses(prompt, target)
    rival.train(stream, 18, steps=60, batch=8, rate=3e-3)
    after = rival.losses(prompt, target)
    assert before.shape == after.shape == (20,)
    assert after.mean() < before.mean() - 1
    # What it sends is what metric-DP sends.
    assert rival.guarantee == MetricPrivacy(embeddings, 20.0, snap=False).guarantee
    with pytest.raises(InvalidValue, match="at least 18 tokens"):
        rival.train(stream[:10], 18, steps=1, batch=1)


def test_what_a_denoiser_says_of_a_token_depends_on_the_past_alone(model: Any, embeddings: torch.Tensor) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(32, 32).eval()
    hidden, clean, noise = torch.randn(3, 1, 6, 32)
    assert torch.equal(denoiser(hidden, clean, noise), hidden)  # untrained it leaves the model's answer alone
    torch.nn.init.normal_(denoiser.write.weight)
    first = denoiser(hidden, clean, noise)
    clean[:, 4:] += 1
    assert torch.allclose(denoiser(hidden, clean, noise)[:, :4], first[:, :4], atol=1e-5)
