"""An answer's text, in which secrets are put back for their placeholders: what comes of it, however it is cut.

A reader of Markdown by others says where a secret then stands: in prose, or where somebody could act on it. The first
byte says where the answer is cut.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from del_client.protection.placeholders import Placeholders
from del_client.protection.restoring import Restorer
from del_client.terminal import SCRIPTS, safe
from tests.attacks.hostile_answers import ANSWERS, PARTED

from ..target import Mutate, Target

_SECRETS = {"name": "Zoe Quartz", "email": "zoe@q.example"}
_MARKS = ("[NAME_1]", "[EMAIL_1]", "NAME_1", "[name 1]", "[NAME_1's]")
_SIGNS = "` ``` ~~~ < > </ <img ( ) [ ] ]( ![ { } \\ ! | * _ \" ' = / : @ # & ; , . - + https:// mailto: \n \n\n \t    "
_UNSEEN = ("\u200d", "\u200b", "\u202e", "\x1b", "\ufe0f", "\U000e0041", "\xa0", "\u2028", "\x0b", "\x0c", "\r", "\0")
_READER = MarkdownIt("commonmark", {"html": True}).enable("table")
# Of a tag that the reader doesn't know as one.
_LOOSE_TAG = re.compile(r"<[A-Za-z/!?]")
_JOINERS = re.compile(f"[{SCRIPTS}]")


def check(data: bytes) -> None:
    text = data[1:].decode(errors="replace")
    shown = _restored([text])
    cut = (data[0] if data else 0) % (len(text) + 1)
    assert _restored([text[:cut], text[cut:]]) == shown
    assert _restored(list(text)) == shown
    if not any(secret in shown for secret in _SECRETS.values()):
        return
    for seen in (shown, _JOINERS.sub("", shown)):  # a program may take them out
        for place, found in _acted_on(_READER.parse(seen)):
            assert not any(secret in found for secret in _SECRETS.values()), f"in {place}: {found!r}"


def _restored(pieces: Sequence[str]) -> str:
    known = Placeholders()
    for kind, secret in _SECRETS.items():
        known.placeholder(kind, secret)
    restorer = Restorer(known)
    return "".join([restorer.feed(safe(piece)) for piece in pieces]) + restorer.finish()


def _acted_on(tokens: Sequence[Token]) -> Iterator[tuple[str, str]]:
    """What somebody could load, follow, run or copy as a whole, and what it is."""
    linked = 0
    for token in tokens:
        for name, value in token.attrs.items():
            yield f"{token.type} {name}", str(value)
        linked += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type in ("code_inline", "code_block", "fence", "html_inline", "html_block", "image"):
            yield token.type, token.content + token.info
        elif linked:
            yield "a link", token.content
        elif token.type == "text" and (tag := _LOOSE_TAG.search(token.content)):
            yield "a tag", token.content[tag.start() :]
        yield from _acted_on(token.children or ())


def seeds() -> list[bytes]:
    prose = [
        "Dear [NAME_1], see `x` and [1].",
        "| [NAME_1] | 3 |\n|---|---|",
        '- *[NAME_1]*: "[EMAIL_1]".',
        "([NAME_1])",
    ]
    answers = [answer for answer in ANSWERS if len(answer) < 200]
    return [b"\x05" + text.encode() for text in [*answers, *(each.replace("|", "\u200d") for each in PARTED), *prose]]


def mutate(data: bytes, change: Mutate, draw: random.Random) -> bytes:
    """Signs and placeholders where libFuzzer would put bytes."""
    if draw.random() < 0.2:
        return change(data)
    text = data[1:].decode(errors="replace")
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(text) + 1)
        new = draw.choice([draw.choice(_SIGNS.split(" ")), draw.choice(_MARKS), draw.choice(_UNSEEN), "", "x ", " "])
        text = text[:at] + new + text[at + draw.randrange(3) * (draw.random() < 0.4) :]
    return bytes([draw.randrange(256)]) + text.encode()


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 21) + 4096 * size,
    modules=("del_client.protection.restoring", "del_client.protection.placeholders", "del_client.terminal"),
    most_bytes=512,
    mutate=mutate,
    words=tuple(word.encode() for word in (*_MARKS, *_SIGNS.split())),
)
