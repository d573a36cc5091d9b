"""Logits to a token: greedy, temperature, top-k, top-p, seeds and log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from del_codec.errors import EngineError, InvalidValue
from del_server.engine.base import MAX_LOGPROBS, Sampling
from del_server.engine.sampling import choose, logprobs_of

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, 0.0, 2.9, -30.0])


def drawn(sampling: Sampling, count: int = 4000, logits: torch.Tensor = LOGITS) -> list[int]:
    return [choose(logits, sampling, position) for position in range(count)]


def law_of_transformers(temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution that `generate` samples from."""
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS[None])
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores.softmax(-1)[0]


def test_greedy_takes_the_likeliest_token_and_the_first_of_equals() -> None:
    assert choose(LOGITS, Sampling(1), 0) == 1
    assert choose(torch.tensor([0.0, 5.0, 5.0]), Sampling(1), 0) == 1


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 0.9), (2.0, 3, 1.0), (1.0, 4, 0.8), (1.0, 1, 1.0), (1.0, 0, 0.01), (5.0, 100, 0.5)],
)
def test_samples_follow_the_law_that_generate_samples_from(temperature: float, top_k: int, top_p: float) -> None:
    expected = law_of_transformers(temperature, top_k, top_p).double()
    tokens = drawn(Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p, seed=7))
    counts = torch.bincount(torch.tensor(tokens), minlength=len(LOGITS)).double()
    assert counts[expected == 0].sum() == 0
    likely = expected * len(tokens) >= 5
    if likely.sum() > 1:
        p_value = stats.chisquare(
            counts[likely], expected[likely] / expected[likely].sum() * counts[likely].sum()
        ).pvalue
        assert p_value > 1e-4
    else:
        assert counts[likely].sum() == len(tokens)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    sampling = Sampling(1, temperature=1.0, seed=2**64 - 1)
    assert drawn(sampling, 50) == drawn(sampling, 50)
    assert drawn(sampling, 50) != drawn(Sampling(1, temperature=1.0, seed=3), 50)


@pytest.mark.parametrize("temperature", [1e-38, 1e-6, 0.01])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert set(drawn(Sampling(1, temperature=temperature), 20)) == {1}


def test_logprobs_are_the_models_own_and_sorted() -> None:
    expected = LOGITS.double().log_softmax(-1)
    reported = logprobs_of(LOGITS, chosen=4, alternatives=3)
    assert reported.chosen == pytest.approx(float(expected[4]), rel=1e-5)
    assert [token for token, _ in reported.top] == [1, 5, 3]
    assert [value for _, value in reported.top] == pytest.approx([float(expected[t]) for t in (1, 5, 3)], rel=1e-5)


def test_no_more_alternatives_than_tokens() -> None:
    assert len(logprobs_of(LOGITS, 0, MAX_LOGPROBS).top) == len(LOGITS)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_the_models_failure(bad: float) -> None:
    logits = LOGITS.clone()
    logits[2] = bad
    with pytest.raises(EngineError, match="not finite"):
        choose(logits, Sampling(1), 0)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("max_new_tokens", {"max_tokens": 0}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": math.nan}),
        ("temperature", {"temperature": math.inf}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": 1.5}),
        ("top_p", {"top_p": math.nan}),
        ("top_k", {"top_k": -1}),
        ("logprobs", {"logprobs": MAX_LOGPROBS + 1}),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(field: str, options: dict[str, float]) -> None:
    with pytest.raises(InvalidValue) as caught:
        Sampling(**{"max_tokens": 1, **options})  # type: ignore[arg-type]
    assert caught.value.field == field
