"""The codec's peers do the same thing as the codec, or the comparison would be of apples and pears."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.codec_cost import (
    DEL,
    TOKENS,
    bitarray_pack,
    distributions_encoding,
    encode_cost,
    estimate_error,
    numpy_encoding,
    numpy_pack,
    numpy_unpack,
    torch_encoding,
)
from benchmarks.report.results import Recorder
from del_codec.bitpack import pack, unpack


@pytest.mark.parametrize("bits", range(1, 9))
def test_peers_pack_the_same_bytes(bits: int) -> None:
    levels = np.random.default_rng(bits).integers(0, 1 << bits, (5, 7)).astype(np.uint8)
    payload = pack(levels, bits)
    assert numpy_pack(levels, bits) == bitarray_pack(levels, bits) == payload
    assert (numpy_unpack(payload, levels.size, bits) == levels.ravel()).all()


@pytest.mark.parametrize("make", [numpy_encoding, torch_encoding, distributions_encoding])
@pytest.mark.parametrize("bits", [1, 3])
def test_peers_draw_the_same_law(make, bits: int) -> None:  # type: ignore[no-untyped-def]
    from benchmarks.codec_cost import encoding

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


@pytest.mark.parametrize("bits", [1, 4])
def test_the_estimate_is_unbiased_and_varies_as_theory_says(bits: int) -> None:
    record = Recorder("codec")
    estimate_error(bits, record)
    bias, variance = record.results()
    assert abs(bias.median) < 6
    assert variance.median == pytest.approx(1, abs=0.01)
