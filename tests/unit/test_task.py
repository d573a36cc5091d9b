"""Tasks: what they are made of, and the prompts that they give."""

from __future__ import annotations

import pytest

from del_codec.errors import InvalidValue
from del_codec.task import MAX_LABELS, Task

PAIR = Task("mrpc", "A: {}\nB: {}\nSame?", ("no", "yes"))


def test_a_prompt_and_where_its_fields_are() -> None:
    text, ranges = PAIR.fill(["one {} two", "three"])
    assert text == "A: one {} two\nB: three\nSame?"
    assert [text[start:end] for start, end in ranges] == ["one {} two", "three"]


def test_a_field_may_stand_at_the_very_start_or_end() -> None:
    text, ranges = Task("copy", "{}{}", ("a", "b")).fill(["x", "y"])
    assert (text, ranges) == ("xy", [(0, 1), (1, 2)])


def test_a_label_is_written_after_a_space_unless_the_prompt_ends_in_one() -> None:
    assert PAIR.continuation("yes") == " yes"
    assert Task("chat", "{}\nanswer:\n", ("a", "b")).continuation("a") == "a"


def test_json_and_back() -> None:
    assert Task.from_json("mrpc", PAIR.to_json()) == PAIR


@pytest.mark.parametrize(
    ("name", "template", "labels", "field"),
    [
        ("../x", "{}", ("a", "b"), "name"),
        ("", "{}", ("a", "b"), "name"),
        ("Name", "{}", ("a", "b"), "name"),
        ("t", "no field", ("a", "b"), "template"),
        ("t", "{}{}{}", ("a", "b"), "template"),
        ("t", "x" * 5000 + "{}", ("a", "b"), "template"),
        ("t", "{}", ("a",), "labels"),
        ("t", "{}", ("a", "a"), "labels"),
        ("t", "{}", ("a", " "), "labels"),
        ("t", "{}", ("a", "b" * 300), "labels"),
        ("t", "{}", tuple(map(str, range(MAX_LABELS + 1))), "labels"),
    ],
)
def test_what_is_no_task_is_refused_by_its_field(name: str, template: str, labels: tuple[str, ...], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Task(name, template, labels)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"template": "{}", "labels": "ab"}', '{"template": 1, "labels": ["a", "b"]}']
)
def test_json_that_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        Task.from_json("t", text)


@pytest.mark.parametrize("fields", [[], ["one"], ["one", "two", "three"], ["one", ""]])
def test_the_fields_must_be_those_of_the_template(fields: list[str]) -> None:
    with pytest.raises(InvalidValue) as caught:
        PAIR.fill(fields)
    assert caught.value.field == "fields"
