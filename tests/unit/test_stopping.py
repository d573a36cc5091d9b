"""Stop strings: whatever the pieces, the text is that before the first of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_codec.errors import InvalidValue
from del_codec.stopping import MAX_STRINGS, StopStrings

ALPHABET = "ab\n"


def read(stop: StopStrings, pieces: list[str]) -> Iterator[str]:
    for piece in pieces:
        yield stop.feed(piece)
        if stop.found:
            return
    yield stop.finish()


@given(
    pieces=st.lists(st.text(ALPHABET, max_size=5), max_size=12),
    strings=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_before_the_first_stop_string(pieces: list[str], strings: list[str]) -> None:
    text, stop = "".join(pieces), StopStrings(strings)
    given_out = "".join(read(stop, pieces))
    found = [at for string in strings if (at := text.find(string)) >= 0]
    assert stop.found == bool(found)
    if not found:
        assert given_out == text
        return
    # Pieces come one by one: of two strings, the one that is whole first ends the answer.
    ends = {text.find(string): text.find(string) + len(string) for string in strings if string in text}
    assert given_out in {text[:start] for start in ends}
    assert not any(string in given_out for string in strings)


def test_what_can_begin_a_stop_string_is_held_back_and_nothing_else() -> None:
    stop = StopStrings(["three"])
    assert [stop.feed(piece) for piece in ("one th", "ink thr", "ee four")] == ["one ", "think ", ""]
    assert stop.found


@pytest.mark.parametrize("strings", ["text", [""], [5], ["a" * 257], ["a"] * (MAX_STRINGS + 1)])
def test_bad_strings(strings: list[str]) -> None:
    with pytest.raises(InvalidValue, match="stop is"):
        StopStrings(strings)
