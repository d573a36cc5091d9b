"""StoppedAnswer: text and ids that may be sent, whatever the borders of tokens."""

from __future__ import annotations

import random

import pytest

from del_codec.errors import InvalidValue
from del_server.engine.base import Logprobs
from del_server.stopping import StoppedAnswer


def read(stopped: StoppedAnswer, pieces: list[str]) -> tuple[list[int], str]:
    """Ids, which are places in `pieces`, and text that were given out."""
    ids, text = [], ""
    for token, piece in enumerate(pieces):
        new, more, _ = stopped.push(token, piece)
        ids, text = [*ids, *new], text + more
        if stopped.found:
            break
    new, more, _ = stopped.finish()
    return [*ids, *new], text + more


@pytest.mark.parametrize(
    ("pieces", "ids", "text"),
    [
        (["one ", "END", " two"], [0], "one "),
        (["one E", "N", "D two"], [], "one "),
        (["one ", "E", "N", "ough"], [0, 1, 2, 3], "one ENough"),
        (["one E", "", "", "ND"], [], "one "),
        (["é", "", "END"], [0], "é"),
        (["é", "", "ü", "E"], [0, 1, 2, 3], "éüE"),
        (["END"], [], ""),
        (["xSTOPEND"], [], "x"),
    ],
)
def test_an_answer_ends_before_the_first_string(pieces: list[str], ids: list[int], text: str) -> None:
    assert read(StoppedAnswer(["END", "STOP"]), pieces) == (ids, text)


def test_however_a_text_is_cut_the_same_is_given_out() -> None:
    draw = random.Random(3)
    for _ in range(300):
        whole = "".join(draw.choice("abc") for _ in range(draw.randrange(1, 30)))
        strings = ["".join(draw.choice("abc") for _ in range(draw.randrange(1, 5))) for _ in range(3)]
        cuts = sorted(draw.randrange(len(whole) + 1) for _ in range(draw.randrange(8)))
        pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        ids, text = read(StoppedAnswer(strings), pieces)
        starts = [at for string in strings if (at := whole.find(string)) >= 0]
        assert (len(text) in starts and text == whole[: len(text)]) if starts else text == whole
        assert not any(string in text for string in strings)
        assert ids == list(range(len(ids)))
        assert len("".join(pieces[: len(ids)])) <= len(text)


def test_log_probabilities_go_with_their_tokens() -> None:
    stopped = StoppedAnswer(["END"])
    one, two = Logprobs(-1.0, ()), Logprobs(-2.0, ())
    assert stopped.push(5, "E", one) == ((), "", ())
    assert stopped.push(6, "g", two) == ((5, 6), "Eg", (one, two))


@pytest.mark.parametrize("strings", [[""], ["a"] * 17, ["a" * 257]])
def test_strings_that_can_not_be_looked_for(strings: list[str]) -> None:
    with pytest.raises(InvalidValue, match="stop"):
        StoppedAnswer(strings)
