"""Packing: any number of levels of 1 to 8 bits has exactly one encoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_codec.bitpack import pack, packed_size, unpack
from del_codec.errors import FrameError, InvalidValue


@st.composite
def bits_and_levels(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.integers(1, 8))
    return bits, draw(st.lists(st.integers(0, (1 << bits) - 1), max_size=40))


@given(bits_and_levels())
def test_packing_is_the_bit_string_padded_with_zeros(case: tuple[int, list[int]]) -> None:
    bits, levels = case
    text = "".join(f"{level:0{bits}b}" for level in levels)
    text += "0" * (-len(text) % 8)
    payload = pack(np.array(levels, dtype=np.uint8), bits)
    assert payload == bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert len(payload) == packed_size(len(levels), bits)
    assert unpack(payload, len(levels), bits).tolist() == levels


@given(st.integers(1, 8), st.binary(max_size=24), st.data())
def test_whatever_unpacks_packs_to_the_same_bytes(bits: int, payload: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(max(0, (len(payload) * 8 - 7) // bits), len(payload) * 8 // bits))
    try:
        levels = unpack(payload, count, bits)
    except FrameError:
        return
    assert pack(levels, bits) == payload


def test_levels_of_many_tokens_stand_in_c_order() -> None:
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pack(levels, 8) == pack(np.asfortranarray(levels), 8) == bytes(range(6))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_level_that_needs_more_bits_is_refused(bits: int) -> None:
    with pytest.raises(InvalidValue, match=f"levels is {1 << bits}: every level must be below {1 << bits}"):
        pack(np.array([0, 1 << bits], dtype=np.uint8), bits)


@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 1000])
def test_a_payload_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(FrameError, match="7 integers of 3 bits take 3 bytes"):
        unpack(bytes(length), 7, 3)


@pytest.mark.parametrize("bits", [0, 9, -1, True, 1.0, "1", None])
def test_bits_outside_of_one_to_eight_are_refused(bits: object) -> None:
    with pytest.raises(InvalidValue, match="bits is"):
        pack(np.zeros(1, dtype=np.uint8), bits)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="bits is"):
        unpack(b"\0", 1, bits)  # type: ignore[arg-type]
