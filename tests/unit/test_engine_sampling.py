"""Logits to a token: greedy, temperature, top-k, top-p, seeds and log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from del_codec.errors import EngineError, InvalidValue
from del_server.engine.base import MAX_LOGPROBS, Sampling
from del_server.engine.sampling import Draw, choose, logprobs_of, take

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, 0.0, 2.9, -30.0])


def drawn(sampling: Sampling, count: int = 4000, logits: torch.Tensor = LOGITS) -> list[int]:
    taken = take(logits.expand(count, -1), [Draw(sampling, position) for position in range(count)])
    return [one[0] for one in taken if not isinstance(one, EngineError)]


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


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.999), (1500, 0.9), (1024, 1.0), (3, 1.0), (0, 1.0)])
def test_the_law_is_the_same_where_the_vocabulary_is_larger_than_the_head(top_k: int, top_p: float) -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(2)) * 2
    scores = logits[None]
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    allowed = scores.softmax(-1)[0].double()
    sampling = Sampling(1, temperature=1.0, top_k=top_k, top_p=top_p, seed=3)
    tokens = torch.tensor(drawn(sampling, 600, logits))
    assert bool((allowed[tokens] > 0).all())
    likeliest = allowed.topk(20).indices
    share = float(torch.isin(tokens, likeliest).double().mean())
    expected = min(1.0, float(allowed[likeliest].sum()))
    assert abs(share - expected) <= 1e-6 + 4.5 * math.sqrt(expected * (1 - expected) / 600)


def test_rows_are_drawn_as_each_is_alone() -> None:
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(4))
    settings = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.5, "top_k": 7},
        {"temperature": 2.0, "top_p": 0.99},
        {"temperature": 1.0, "top_p": 0.2, "repetition_penalty": 1.5},
        {"repetition_penalty": 5.0, "logprobs": 2},
    ]
    draws = [Draw(Sampling(1, seed=row, **options), 3, [5, 9, 9]) for row, options in enumerate(settings)]
    assert take(logits, draws) == [take(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws)]


def test_of_equal_tokens_at_the_cut_those_with_smaller_ids_stay() -> None:
    assert set(drawn(Sampling(1, temperature=1.0, top_k=3), 300, torch.zeros(900))) == {0, 1, 2}


def test_a_repetition_penalty_is_that_of_transformers() -> None:
    before = [1, 2, 2, 6]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([before]), LOGITS[None].clone())[0]
    sampling = Sampling(1, repetition_penalty=1.7, logprobs=1)
    ((token, reported),) = take(LOGITS[None], [Draw(sampling, 4, before)])
    assert token == int(expected.argmax()) != 1
    assert reported == logprobs_of(LOGITS, token, 1)


def test_a_row_that_is_not_finite_fails_alone() -> None:
    logits = torch.stack([LOGITS, torch.full_like(LOGITS, math.nan), LOGITS])
    first, bad, last = take(logits, [Draw(Sampling(1, temperature=1.0), 0)] * 3)
    assert isinstance(bad, EngineError)
    assert first == last == (choose(LOGITS, Sampling(1, temperature=1.0), 0), None)


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
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("repetition_penalty", {"repetition_penalty": 10.1}),
        ("repetition_penalty", {"repetition_penalty": math.nan}),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(field: str, options: dict[str, float]) -> None:
    with pytest.raises(InvalidValue) as caught:
        Sampling(**{"max_tokens": 1, **options})  # type: ignore[arg-type]
    assert caught.value.field == field
