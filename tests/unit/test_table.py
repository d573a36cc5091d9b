"""LatentTable: what a device reads of its half of a codec. Damaged files are in tests/attacks/test_tables.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_table import small_spec, small_table

from del_codec.errors import InvalidValue
from del_codec.table import LatentTable

TABLE = small_table()


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "device.safetensors"
    data = LatentTable.to_bytes(TABLE.spec, TABLE.latents, TABLE.unigram_counts)
    path.write_bytes(data)
    table = LatentTable.load(path)
    assert table.spec == TABLE.spec
    assert np.array_equal(table.latents, TABLE.latents)
    assert np.array_equal(table.unigram_counts, TABLE.unigram_counts)
    assert (table.latents.dtype, table.unigram_counts.dtype) == (np.int8, np.uint32)
    assert table.fingerprint == hashlib.sha256(data).hexdigest()


def test_a_table_in_any_memory_layout_is_the_same_file() -> None:
    latents = np.asfortranarray(TABLE.latents)
    data = LatentTable.to_bytes(TABLE.spec, latents, TABLE.unigram_counts)
    assert hashlib.sha256(data).hexdigest() == TABLE.fingerprint


def test_one_changed_latent_is_another_codec() -> None:
    latents = TABLE.latents.copy()
    latents[3, 1] ^= 1
    changed = LatentTable.from_bytes(LatentTable.to_bytes(TABLE.spec, latents, TABLE.unigram_counts))
    assert changed.fingerprint != TABLE.fingerprint


@given(st.lists(st.integers(0, TABLE.spec.vocabulary - 1), min_size=1))
def test_rows_are_the_ids_latents_in_order(ids: list[int]) -> None:
    assert np.array_equal(TABLE.rows(ids), np.stack([TABLE.latents[i] for i in ids]))


@pytest.mark.parametrize("outside", [-1, TABLE.spec.vocabulary, 1 << 40])
def test_an_id_outside_of_the_vocabulary_is_named(outside: int) -> None:
    with pytest.raises(InvalidValue, match=f"token_id is {outside}: the codec knows ids 0 to 23"):
        TABLE.rows([0, 1, outside, 2])


def test_the_prior_is_the_counts_each_raised_by_a_half() -> None:
    counts = TABLE.unigram_counts.astype(np.float64)
    assert counts[-1] == 0
    assert TABLE.prior[-1] > 0
    assert TABLE.prior.sum() == pytest.approx(1)
    assert np.allclose(TABLE.prior / TABLE.prior[0], (counts + 0.5) / (counts[0] + 0.5))


@pytest.mark.parametrize(("latents", "largest"), [([5, -9], 9), ([0, 0], 1), ([3, 127], 127), ([-127, 0], 127)])
def test_the_largest_latent_is_the_corner_that_the_rows_reach(latents: list[int], largest: int) -> None:
    spec = small_spec(vocabulary=2, dim=1)
    column = np.array(latents, dtype=np.int8).reshape(2, 1)
    table = LatentTable.from_bytes(LatentTable.to_bytes(spec, column, np.ones(2, dtype=np.uint32)))
    assert table.largest_latent == largest
