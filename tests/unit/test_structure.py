"""Attacks on structure and context: what they compute is what they say, and what is committed is what was measured."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.context_attack import DOUBT, Gap, GapReader, guesses, noise_evidence
from benchmarks.resends import RepeatedChannel, allowed, through_the_gate
from benchmarks.spots import AFTER, BEFORE, GENERATED, PEOPLE, Population, Spot, in_files, in_prompts
from del_codec.accounting import certify
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.table import LatentTable
from del_server.evaluation.channel import BinomialChannel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def table(tiny_codec: Path) -> LatentTable:
    return LatentTable.load(tiny_codec / "device.safetensors")


def spot(value: str, document: int = 0, around: str = "") -> Spot:
    return Spot(GENERATED, GENERATED, "name", document, (5, 6, 7), " ", value, (8, 9), around)


def test_spots_are_found_as_the_device_finds_them(tokenizer: Any, tmp_path: Path) -> None:
    text = "On 3 May 1987 Rachel came.\n\nGiven that rachel left, case number 4711234 was closed. Daniel met Daniel."
    (tmp_path / "a.txt").write_text(text)
    found = in_files([tmp_path / "a.txt"], tokenizer)
    assert [(one.kind, one.value, one.document) for one in found] == [
        ("date", "3 May 1987", 0),
        ("name", "Rachel", 0),
        ("number", "4711234", 1),
    ], "what stands there twice, the device hides twice; a small letter begins no name"
    assert all(one.origin == PEOPLE and len(one.before) <= BEFORE and len(one.after) <= AFTER for one in found)
    rachel = found[1]
    whole = tokenizer.decode([*rachel.before, *tokenizer(rachel.lead + rachel.value).input_ids, *rachel.after])
    assert whole in text.split("\n")[0]


def test_planted_spots_are_those_in_a_format(tokenizer: Any) -> None:
    found = in_prompts(20, 1, tokenizer)
    assert len(found) > 20
    assert {one.origin for one in found} == {GENERATED}


def test_candidates_are_drawn_as_often_as_they_occur(tokenizer: Any) -> None:
    values = Population([spot("true"), spot("often"), spot("often"), spot("often"), spot("seldom")], tokenizer)
    rng = random.Random(0)
    drawn = [values.candidates(spot("true"), 2, rng)[1] for _ in range(400)]
    assert 0.7 < drawn.count("often") / 400 < 0.8
    assert values.candidates(spot("true", around="not seldom"), 9, rng) == ["true", "often"]


def test_scores_are_those_of_the_whole_text(model: Any, tokenizer: Any) -> None:
    reader, candidates = GapReader(model, 0), [(40, 41, 42), (50,), (60, 61)]
    gap = reader.read(spot("x"), candidates)
    for at, ids in enumerate(candidates):
        for before, after, score in (((0, 5, 6, 7), (8, 9), gap.around[at]), ((0,), (), gap.alone[at])):
            whole = torch.tensor([[*before, *ids, *after]])
            with torch.inference_mode():
                spoken = model(whole).logits.float().log_softmax(-1)[0, len(before) - 1 : -1]
            expected = spoken.gather(1, whole[0, len(before) :].unsqueeze(1)).sum()
            assert score == pytest.approx(float(expected), abs=1e-4)


def gap(document: int, around: list[float]) -> Gap:
    return Gap(spot("x", document), tuple((at,) for at in range(len(around))), np.array(around), np.zeros(len(around)))


def test_a_context_that_tells_is_used_and_one_that_misleads_is_not() -> None:
    telling = [gap(at, [2.0, 0.0, 0.0, 0.0]) for at in range(10)]
    assert [one.right for one in guesses(telling)] == [1.0] * 10
    told = math.exp(2) / (math.exp(2) + 3)
    assert guesses(telling)[0].bits == pytest.approx(math.log2((1 - DOUBT) * told + DOUBT / 4))
    misleading = [gap(at, [-9.0, 0.0, 0.0, 0.0]) for at in range(10)]
    assert {(one.right, one.bits) for one in guesses(misleading)} == {(0.25, -2.0)}
    assert {(one.right, one.bits) for one in guesses(telling, context=False)} == {(0.25, -2.0)}


def test_trust_is_fitted_on_other_documents_alone() -> None:
    split = [gap(at, [5.0, 0.0] if at % 2 else [-5.0, 0.0]) for at in range(10)]
    found = guesses(split)
    assert [one.right for one in found[1::2]] == [0.5] * 5, "fitted where context misleads, it is not trusted"
    assert [one.right for one in found[::2]] == [0.0] * 5, "fitted where it tells, it is, and misleads"


def test_the_spans_own_bits_are_read_exactly(table: LatentTable) -> None:
    weak = NoiseSetting.from_mu(200, table.spec.dim, 4)
    one = Gap(spot("x"), ((10, 11), (20, 21), (30, 31)), np.zeros(3), np.zeros(3))
    assert guesses([one], [noise_evidence(table, one, weak)])[0].right == 1.0
    shown = Gap(spot("x"), ((10,), (20,)), np.zeros(2), np.zeros(2))
    strong = NoiseSetting.from_mu(1, table.spec.dim, 1)
    differences = [np.ptp(noise_evidence(table, shown, strong)) for _ in range(200)]
    assert max(differences) < certify([release_of(table, strong, 1)], unit="token", tokens=1, delta=0).epsilon


def test_releases_of_one_token_add_up(table: LatentTable) -> None:
    channels = [
        BinomialChannel(table, NoiseSetting.from_mu(mu, table.spec.dim, bits), CPU) for mu, bits in ((3, 1), (5, 4))
    ]
    both = RepeatedChannel(channels)
    observed = both.observe(np.arange(8).reshape(2, 4))
    assert observed.shape == (2, 4, 2, table.spec.dim)
    alone = sum(one.log_likelihood(observed[0, :, place]) for place, one in enumerate(channels))
    torch.testing.assert_close(both.log_likelihood(observed[0]), alone)


def test_what_is_allowed_grows_with_every_sending(table: LatentTable) -> None:
    setting = NoiseSetting.from_mu(3, table.spec.dim, 1)
    once, thrice = (allowed(table, [setting] * times) for times in (1, 3))
    assert once[0] == certify([release_of(table, setting, 1)], unit="token", tokens=1, delta=1e-5).epsilon
    assert thrice[0] == certify([release_of(table, setting, 3)], unit="token", tokens=1, delta=1e-5).epsilon
    assert once[1] < thrice[1]


def test_the_gate_repeats_bits_and_charges_for_new_ones(table: LatentTable) -> None:
    noise, other = (NoiseSetting.from_mu(mu, table.spec.dim, 1) for mu in (8, 3))
    assert through_the_gate(table, noise, other, 3) == {
        "the same message again": (1, 1.0),
        "the same message at another setting": (1, 1.0),
        "the message edited": (3, 3.0),
        "in a new conversation": (3, 3.0),
    }
