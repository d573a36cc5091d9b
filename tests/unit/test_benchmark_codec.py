"""The codec's peers do the same thing as the codec, or the comparison would be of apples and pears."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import codec_cost, estimate_error, server_decoding
from benchmarks.codec_cost import DEL, FULL, encode_cost, parts_cost, steps
from benchmarks.codec_ways import (
    TOKENS,
    bitarray_pack,
    distributions_encoding,
    drawing,
    encoding,
    moving,
    numpy_encoding,
    numpy_pack,
    numpy_unpack,
    torch_encoding,
)
from benchmarks.estimate_error import error_of
from benchmarks.random_codec import VOCABULARY, WIDTH
from benchmarks.report.results import Recorder
from benchmarks.section import Settings
from benchmarks.server_decoding import WITHOUT, decoding, gpu_cost
from del_codec.bitpack import pack, unpack
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize


@pytest.mark.parametrize("bits", range(1, 9))
def test_peers_pack_the_same_bytes(bits: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7)).astype(np.uint8)
    payload = pack(levels, bits)
    assert numpy_pack(levels, bits) == bitarray_pack(levels, bits) == payload
    assert (numpy_unpack(payload, levels.size, bits) == levels.ravel()).all()


@pytest.mark.parametrize("make", [numpy_encoding, torch_encoding, distributions_encoding])
@pytest.mark.parametrize("bits", [1, 3])
def test_peers_draw_the_same_law(make, bits: int) -> None:  # type: ignore[no-untyped-def]
    work, dim = make(bits, 16), 16
    theirs = np.mean([unpack(work(), TOKENS * dim, bits).mean() for _ in range(20)])
    ours = np.mean([encoding(bits, dim)().levels(dim).mean() for _ in range(20)])
    assert theirs == pytest.approx(ours, abs=0.02 * (1 << bits))


def test_a_figure_for_every_way_with_the_unit_beside_it() -> None:
    record = Recorder("codec")
    encode_cost(1, 16, 2, record)
    results = {result.way: result for result in record.results()}
    assert len(results) == 6
    assert all(len(result.values) == len(result.units) == 2 for result in results.values())
    assert results[DEL].peer in results


def test_the_limits_are_what_an_encoding_draws_and_moves() -> None:
    drawn = sum(map(len, drawing(1, 16)()))
    assert TOKENS * 16 <= drawn < 1.1 * TOKENS * 16
    assert sum(map(len, drawing(8, 16)())) >= 2 * TOKENS * 16
    assert [len(moved) for moved in moving(4, 16)()] == [TOKENS * 16, TOKENS * 16 // 2]


def test_shares_of_an_encoding_add_up() -> None:
    record = Recorder("codec")
    parts_cost(1, 16, 3, record)
    shares = {result.way: result.values for result in record.results()}
    assert set(shares) == {"randomness", "packing", "looking rows up", "laws and the rest"}
    assert [sum(turn) for turn in zip(*shares.values(), strict=True)] == pytest.approx([1, 1, 1])


def test_a_full_run_looks_at_every_number_of_bits_at_every_dimension() -> None:
    assert set(FULL.places) == {(bits, dim) for bits in range(1, 9) for dim in (16, 32, 64, 128, 256)}


def test_the_server_decodes_a_prompt_to_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_decoding, "embeddings", lambda device: torch.randn(VOCABULARY, WIDTH, device=device))
    assert decoding(1, 16)().shape == (64, 576)


def test_without_a_gpu_a_run_says_so_and_with_one_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Recorder("codec")
    monkeypatch.setattr(codec_cost.torch.cuda, "is_available", lambda: False)
    with steps(Settings(quick=True)) as without:
        (told,) = [step for step in without if step.label == "GPU"]
    told.run(record)
    assert record.notes == [WITHOUT]
    monkeypatch.setattr(codec_cost.torch.cuda, "is_available", lambda: True)
    with steps(Settings(quick=True)) as there:
        labels = [step.label for step in there]
    assert "GPU" not in labels
    assert "server's decoder on a GPU, 1 bits, d = 64" in labels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_measured_by_the_clock() -> None:
    record = Recorder("codec")
    gpu_cost(1, 16, 2, record)
    assert [len(result.values) for result in record.results()] == [2, 2, 2]


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("dim", [16, 64])
def test_the_estimate_is_unbiased_and_varies_as_theory_says(bits: int, dim: int) -> None:
    error = error_of(bits, dim)
    assert abs(error.bias) < 6 * error.deviation
    assert error.variance == pytest.approx(1, abs=0.01)


def test_a_coin_in_a_hundred_that_always_falls_one_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(rows: np.ndarray, setting: NoiseSetting) -> np.ndarray:
        levels = randomize(rows, setting)
        levels.ravel()[::100] = setting.levels
        return levels

    monkeypatch.setattr(estimate_error, "randomize", loaded)
    error = error_of(1, 64)
    assert error.bias > 6 * error.deviation
