"""Attacks: each is as strong as theory says, beside the weaker ones, on a table that is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from del_codec.attacks import token_scores
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_server.evaluation import beam
from del_server.evaluation.attacks import ATTACKS, Attacker, Case
from del_server.evaluation.beam import LanguagePrior, beam_guess
from del_server.evaluation.channel import BinomialChannel
from del_server.evaluation.estimate import Estimate
from del_server.evaluation.evidence import TokenEvidence, best_guess
from del_server.evaluation.inversion import InversionConfig, InversionEvidence, InversionModel, train_inversion
from del_server.evaluation.leakage import Leakage

START = torch.tensor([0])
SMALL = InversionConfig(width=32, layers=1, heads=2, steps=30, batch=8, rate=3e-3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def embeddings(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.get_input_embeddings().weight.detach()
    return weight


@pytest.fixture(scope="module")
def table(tiny_codec: Path) -> LatentTable:
    return LatentTable.load(tiny_codec / "device.safetensors")


@pytest.fixture(scope="module")
def log_prior(table: LatentTable) -> torch.Tensor:
    return torch.from_numpy(np.log(table.prior)).float()


def channel_at(table: LatentTable, mu: float, bits: int = 1) -> BinomialChannel:
    return BinomialChannel(table, NoiseSetting.from_mu(mu, table.spec.dim, bits), CPU)


def by_prior(table: LatentTable, windows: int, length: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(seed).choice(table.spec.vocabulary, (windows, length), p=table.prior)


class Indifferent(LanguagePrior):
    """A language model that has no opinion beyond the unigram prior."""

    def log_probabilities(self, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        super().log_probabilities(tokens, cache)  # so that the cache grows as it does
        return self.log_unigram.expand(len(tokens), -1).clone()


@pytest.mark.parametrize(("mu", "bits"), [(1, 1), (15, 1), (10, 4), (40, 8)])
def test_the_channel_is_that_of_the_device(table: LatentTable, mu: float, bits: int) -> None:
    channel = channel_at(table, mu, bits)
    levels = channel.draw(by_prior(table, 1, 20))[0]
    device = token_scores(table, levels, channel.setting, None).astype(np.float64)
    here = channel.log_likelihood(torch.from_numpy(levels)).double().numpy()
    difference = here - device
    assert np.ptp(difference, axis=1).max() < 2e-2  # the same up to a constant of the observation


@pytest.mark.parametrize("bits", [1, 3])
def test_what_an_attack_is_trained_on_has_the_law_of_what_is_sent(table: LatentTable, bits: int) -> None:
    channel = channel_at(table, 8, bits)
    ids = np.full((1, 4000), 7)
    torch.manual_seed(0)
    sent, rehearsed = channel.draw(ids)[0], channel.rehearse(torch.from_numpy(ids))[0].numpy()
    expected = channel.means(ids)[0, 0]
    spread = math.sqrt(channel.setting.levels / 4 / 4000)
    for drawn in (sent, rehearsed):
        assert np.abs(drawn.mean(axis=0) - expected).max() < 5 * spread


def test_maximum_a_posteriori_beats_maximum_likelihood_and_the_prior_under_the_prior(
    table: LatentTable, log_prior: torch.Tensor
) -> None:
    channel = channel_at(table, 10)
    ids = by_prior(table, 300, 40)
    truth, levels = torch.from_numpy(ids), channel.observe(ids)
    likeliest = (best_guess(TokenEvidence(channel, levels)) == truth).float().mean()
    informed = (best_guess(TokenEvidence(channel, levels, log_prior)) == truth).float().mean()
    constant = (truth == int(log_prior.argmax())).float().mean()
    assert informed > constant
    assert informed > likeliest
    # No attack without context beats the proven cap.
    assert informed < Leakage.of(channel, samples=64).cap_prior


def test_a_search_with_an_indifferent_language_model_is_maximum_a_posteriori(
    table: LatentTable, log_prior: torch.Tensor, model: Any
) -> None:
    channel = channel_at(table, 12)
    levels = channel.observe(by_prior(table, 5, 9))
    prior = Indifferent(model, START, log_prior)
    (found,) = beam_guess([TokenEvidence(channel, levels)], prior, width=3)
    expected = best_guess(TokenEvidence(channel, levels, log_prior))
    assert torch.equal(found.path, expected)
    assert torch.equal(found.token, expected)


def total(model: Any, prior: LanguagePrior, evidence: TokenEvidence, path: tuple[int, ...]) -> float:
    """The score of one whole prompt, without any cache."""
    logits = model(input_ids=torch.tensor([[*prior.prefix.tolist(), *path]])).logits[0]
    spoken = F.log_softmax(logits.float(), dim=-1)[len(prior.prefix) - 1 :]
    score = float(prior.log_unigram[path[0]])
    for place in range(1, len(path)):
        mixed = (1 - prior.smoothing) * spoken[place].exp() + prior.smoothing * prior.log_unigram.exp()
        score += math.log(float(mixed[path[place]]))
    return score + sum(float(evidence.at(place)[0, token]) for place, token in enumerate(path))


@torch.no_grad()
def test_a_wide_search_finds_the_best_of_all_prompts(table: LatentTable, log_prior: torch.Tensor, model: Any) -> None:
    channel = channel_at(table, 6)
    levels = channel.observe(by_prior(table, 2, 3, seed=3))
    prior = LanguagePrior(model, torch.tensor([1, 4]), log_prior)
    (found,) = beam_guess([TokenEvidence(channel, levels)], prior, width=table.spec.vocabulary, max_rows=10**6)
    for window in range(2):
        evidence = TokenEvidence(channel, levels[window : window + 1])
        path = tuple(found.path[window].tolist())
        best = total(model, prior, evidence, path)
        near = [evidence.at(place)[0].add(log_prior).topk(6).indices.tolist() for place in range(3)]
        assert all(total(model, prior, evidence, other) <= best + 1e-3 for other in itertools.product(*near))


def test_windows_of_all_settings_go_side_by_side(table: LatentTable, log_prior: torch.Tensor, model: Any) -> None:
    prior = LanguagePrior(model, START, log_prior)
    cases = []
    for mu, windows in ((5, 3), (20, 4), (60, 1)):
        channel = channel_at(table, mu)
        cases.append(TokenEvidence(channel, channel.observe(by_prior(table, windows, 7))))
    together = beam_guess(cases, prior, width=4)
    pieces = beam_guess(cases, prior, width=4, max_rows=8)
    for case, whole, cut in zip(cases, together, pieces, strict=True):
        (alone,) = beam_guess([case], prior, width=4)
        assert torch.equal(whole.path, alone.path)
        assert torch.equal(whole.path, cut.path)
        assert torch.equal(whole.token, cut.token)


def test_a_search_that_does_not_fit_goes_in_halves(
    table: LatentTable, log_prior: torch.Tensor, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_at(table, 15)
    cases = [TokenEvidence(channel, channel.observe(by_prior(table, windows, 5))) for windows in (3, 4)]
    prior = LanguagePrior(model, START, log_prior)
    expected = beam_guess(cases, prior, width=3)
    search, room = beam._search, 2

    def cramped(parts: list[TokenEvidence], *rest: Any) -> beam.Found:
        if sum(part.windows for part in parts) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(parts, *rest)

    monkeypatch.setattr(beam, "_search", cramped)
    for whole, cut in zip(expected, beam_guess(cases, prior, width=3), strict=True):
        assert torch.equal(whole.path, cut.path)
    room = 0
    with pytest.raises(InvalidValue, match="keep fewer hypotheses"):
        beam_guess(cases, prior, width=3)


def test_a_language_model_that_knows_the_text_helps(table: LatentTable, log_prior: torch.Tensor, model: Any) -> None:
    # Text that the model itself would write: its own samples.
    torch.manual_seed(0)
    start = torch.zeros(80, 1, dtype=torch.long)
    written = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        max_new_tokens=24,
        min_new_tokens=24,
        top_k=5,
        pad_token_id=2,
    )
    ids = written[:, 1:].numpy()
    channel = channel_at(table, 5)
    levels, truth = channel.observe(ids), torch.from_numpy(ids)
    flat = torch.full_like(log_prior, -math.log(len(log_prior)))
    (found,) = beam_guess([TokenEvidence(channel, levels)], LanguagePrior(model, START, flat), width=8)
    alone = (best_guess(TokenEvidence(channel, levels)) == truth).float().mean()
    assert (found.path == truth).float().mean() > alone + 0.02
    assert (found.token == truth).float().mean() > alone + 0.02


def untrained(model: Any, embeddings: torch.Tensor, log_prior: torch.Tensor, dim: int = 16) -> InversionModel:
    torch.manual_seed(0)
    return InversionModel(SMALL, dim, model, embeddings, log_prior)


def test_an_untrained_inversion_is_maximum_a_posteriori(
    table: LatentTable, log_prior: torch.Tensor, model: Any, embeddings: torch.Tensor
) -> None:
    attack = untrained(model, embeddings, log_prior)
    channel = channel_at(table, 12)
    levels = channel.observe(by_prior(table, 4, 10))
    own = TokenEvidence(channel, levels, log_prior)
    read = InversionEvidence.of(attack, channel, levels, START)
    for place in range(10):
        assert torch.equal(read.at(place), own.at(place))
    hidden = InversionEvidence.of(attack, channel, levels, START, torch.zeros(4, 10, dtype=torch.bool))
    assert torch.equal(hidden.at(3), log_prior.expand(4, -1))


def test_a_trained_inversion_uses_the_other_tokens(
    table: LatentTable, log_prior: torch.Tensor, model: Any, embeddings: torch.Tensor
) -> None:
    # A text that its own past gives away: the alphabet over and over.
    stream = torch.arange(6000) % 20 + 30
    torch.manual_seed(0)
    longer = dataclasses.replace(SMALL, steps=120, rate=1e-2)
    attack = InversionModel(longer, 16, model, embeddings, log_prior)
    channel = channel_at(table, 6)
    losses = train_inversion(attack, [channel], stream, 16, START)
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    ids = stream[: 16 * 40].view(40, 16).numpy()
    levels, truth = channel.observe(ids), torch.from_numpy(ids)
    alone = (best_guess(TokenEvidence(channel, levels, log_prior)) == truth).float().mean()
    read = (best_guess(InversionEvidence.of(attack.eval(), channel, levels, START)) == truth).float().mean()
    assert read > alone + 0.1


def test_training_repeats_itself_and_leaves_the_other_randomness_alone(
    table: LatentTable, log_prior: torch.Tensor, model: Any, embeddings: torch.Tensor
) -> None:
    stream = torch.arange(500) % 259
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        attack = InversionModel(SMALL, 16, model, embeddings, log_prior)
        torch.random.set_rng_state(before)
        runs.append(train_inversion(attack, [channel_at(table, 6)], stream, 8, START))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert runs[0] == runs[1]


def attacker(model: Any, embeddings: torch.Tensor, log_prior: torch.Tensor) -> Attacker:
    return Attacker(embeddings, LanguagePrior(model, START, log_prior), width=4)


@pytest.mark.parametrize(("mu", "bits"), [(1e4, 8), (0.1, 1)])
def test_the_ends_of_the_dial(
    table: LatentTable, log_prior: torch.Tensor, model: Any, embeddings: torch.Tensor, mu: float, bits: int
) -> None:
    channel = channel_at(table, mu, bits)
    ids = by_prior(table, 20, 16)
    truth = torch.from_numpy(ids)
    case = Case(channel, channel.observe(ids), truth, embeddings[truth], untrained(model, embeddings, log_prior))
    (shares,) = attacker(model, embeddings, log_prior).run([case], ATTACKS)
    assert tuple(shares) == tuple(name for name in ATTACKS if name != "masked")  # no such model is at hand
    assert float(shares["nn"].mean()) == 1  # here the decoder is told the truth
    informed = {name: float(share.mean()) for name, share in shares.items() if name not in ("prior", "nn", "withheld")}
    if mu > 1:
        assert min(informed.values()) > 0.99
    else:
        assert max(informed.values()) < 0.06
        assert abs(informed["map"] - float(shares["prior"].mean())) < 0.03


def test_an_unknown_attack_is_named(model: Any, embeddings: torch.Tensor, log_prior: torch.Tensor) -> None:
    with pytest.raises(InvalidValue, match="guesswork"):
        attacker(model, embeddings, log_prior).run([], ["map", "guesswork"])


def test_a_search_needs_a_start_and_windows_of_one_length(
    table: LatentTable, log_prior: torch.Tensor, model: Any
) -> None:
    with pytest.raises(InvalidValue, match="prefix"):
        LanguagePrior(model, START[:0], log_prior)
    channel = channel_at(table, 5)
    cases = [TokenEvidence(channel, channel.observe(by_prior(table, 1, length))) for length in (3, 4)]
    with pytest.raises(InvalidValue, match="cases"):
        beam_guess(cases, LanguagePrior(model, START, log_prior))


def test_information_is_what_the_posterior_gains_and_stays_below_its_limit(table: LatentTable) -> None:
    weak, strong = (Leakage.of(channel_at(table, mu)) for mu in (200, 2))
    entropy = -float((table.prior * np.log2(table.prior)).sum())
    assert strong.bits < 0.3
    assert weak.bits < min(entropy, weak.bits_limit)
    assert Leakage.of(channel_at(table, 1e4, 8)).bits == pytest.approx(entropy, rel=0.03)
    assert strong.cap_uniform < weak.cap_uniform


def test_an_estimate_over_texts_is_a_mean_with_its_standard_error() -> None:
    estimate = Estimate.of([1.0, 2.0, 3.0, 6.0])
    assert estimate.mean == 3
    assert estimate.error == pytest.approx(math.sqrt(14 / 3 / 4))
    assert estimate.high - 3 == pytest.approx(3.182446 * estimate.error, rel=1e-5)  # Student's, 3 degrees of freedom


def test_intervals_over_seeds_and_texts_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        seeds, texts = rng.normal(0, 0.1, (3, 1)), rng.normal(0, 0.5, (1, 60))
        estimate = Estimate.of(0.7 + seeds + texts + rng.normal(0, 0.2, (3, 60)))
        held.append(estimate.low <= 0.7 <= estimate.high)
    assert np.mean(held) >= 0.92


def test_a_ratio_drops_what_windows_share() -> None:
    rng = np.random.default_rng(0)
    span = rng.uniform(1, 5, 200)
    kept = Estimate.ratio(0.6 * span, span)
    assert kept.mean == pytest.approx(0.6)
    assert kept.error < 1e-6
    assert math.isnan(Estimate.ratio(np.ones(3), np.zeros(3)).mean)
