"""TOML within bounds: what tomllib would take too long over, or give values that can't be shown, is refused."""

from __future__ import annotations

import pytest

from del_codec import toml


def test_tables_come_as_python_has_them() -> None:
    text = 'a = 1\n[b.c]\nd = ["x", 2.5]\n"e.f" = {g.h = true}\n'
    assert toml.loads(text) == {"a": 1, "b": {"c": {"d": ["x", 2.5], "e.f": {"g": {"h": True}}}}}


@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize("around", ["{} = 1", "[{}]", "[[{}]]", "x = {{{} = 1}}", "x = {{y = 1, {} = 1}}", "[ {} ]"])
def test_a_key_may_have_eight_parts(around: str, parts: int) -> None:
    toml.loads(around.format(" . ".join(["a", '"b.c"', "'d'", "e-1", "f", "g", "h", "i"][:parts])))


@pytest.mark.parametrize("parts", [9, 30_000])
@pytest.mark.parametrize("around", ["{} = 1", "\n [{}]", "[[{}]]", "x = {{{} = 1}}", "x = {{y = 1, {} = 1}}"])
def test_a_key_of_more_is_refused_before_it_is_read(around: str, parts: int) -> None:
    with pytest.raises(ValueError, match="over 8 parts"):
        toml.loads(around.format(".".join(["a"] * parts)))


def test_dots_in_texts_and_numbers_are_no_keys() -> None:
    text = 'a = "1.2.3.4.5.6.7.8.9.10"\nb = [1.5, 2.5]\n# c.c.c.c.c.c.c.c.c.c\nd = ["x.x", "y.y"]\n'
    assert toml.loads(text)["a"] == "1.2.3.4.5.6.7.8.9.10"


@pytest.mark.parametrize("number", [str(1 << 8192), str(-1 << 8192), "0x" + "f" * 4000, "9" * 5000])
def test_a_number_that_can_not_be_shown_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match=r"8192 bits|4300 digits"):
        toml.loads(f"a = [{{b = {number}}}]")


def test_a_number_of_8192_bits_is_left_to_who_knows_its_key() -> None:
    assert toml.loads(f"a = {(1 << 8192) - 1}")["a"] == (1 << 8192) - 1


@pytest.mark.parametrize("text", ['a = "\\u0000"', "a = [[[" * 1000, "a = 1\na = 2", "a", "a = \x7f"])
def test_what_is_no_toml_of_ours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        toml.loads(text)
