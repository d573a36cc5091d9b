"""An answer that would carry a secret out of the device, were it put back: cut into two pieces at every position."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import AsyncGenerator

import pytest
from hostile_answers import ANSWERS, PARTED

from del_client.answer import Answer, Course, Reading
from del_client.prepared import Prepared
from del_client.protection.placeholders import Placeholders
from del_client.protection.restoring import LOOKAHEAD, Restorer
from del_client.query import Event, Finish, Timings, TokenDelta, Traffic, Usage
from del_client.terminal import safe

SECRET = "Zoe Quartz"


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


UNSEEN = ["\0", "\x1b", "\r\x7f", "\u200b", "\u200e", "\u2060", "\ufeff", "\U000e0041", "\U000e0100"]
UNSEEN += ["\u200d", "\u180b", "\ufe0f"]


async def shown(*pieces: str) -> Answer:
    """An answer that came so, to a conversation with a secret."""
    known = Placeholders()
    known.placeholder("name", SECRET)

    async def send(prepared: Prepared, traffic: Traffic) -> AsyncGenerator[Event]:
        for piece in pieces:
            yield TokenDelta((5,), piece)
        yield Finish("stop", Usage(0, 0, len(pieces), 0, 0, 0), Timings(0, 0, 0, 0, 0), 0)

    async def release() -> Prepared:
        return Prepared((), (), "")

    course = Course(release=release, send=send, report=lambda _: None)
    answer = Answer(course, Reading(restoring=[Restorer(known)]))
    async for _ in answer:
        pass
    return answer


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
@pytest.mark.parametrize("parted", PARTED)
async def test_what_is_not_seen_parts_no_sign_from_what_it_begins(parted: str, unseen: str) -> None:
    answer = parted.replace("|", unseen)
    for pieces in ([answer], list(answer)):
        assert SECRET not in (await shown(*pieces)).text


async def test_no_answer_moves_a_cursor_turns_text_around_or_says_what_is_not_seen() -> None:
    kept = set("\t\n\u180b\u180c\u180d\u180e\u180f\u200c\u200d\ufe0e\ufe0f")
    # Seen, or part of how a number or a hieroglyph is written, though Unicode calls them formats.
    drawn = "ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"
    hidden = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) in ("Cc", "Cf")
        and not unicodedata.name(character, "").startswith(drawn)
        and character not in kept
    ]
    hidden += ["\u061c", "\u034f", "\u115f", "\u3164", "\uffa0", "\ufe00", "\U000e0100", "\U000e01ef"]
    assert {"\x1b", "\u200b", "\u202e", "\U000e0041"} < set(hidden)
    answer = await shown("a" + "".join(hidden) + "b")
    assert (answer.text, answer.unrestored, answer.sent_chars) == ("ab", "ab", 2)


@pytest.mark.parametrize(
    "text",
    ["👨‍👩‍👧 ❤️‍🔥 ☀︎", "می‌خواهم", "क्‍ष", "👩🏽‍💻", "a\tb\nc", "é – …"],
)
async def test_what_people_write_stays(text: str) -> None:
    assert (await shown(f"(☀️) {text} [NAME_1]")).text == f"(☀️) {text} {SECRET}"
    assert safe(text) == text
