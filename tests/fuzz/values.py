"""Values that parsers of TOML and JSON have tripped over, to be written where a sound file has another value."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .target import Mutate

_JSON: tuple[Callable[[random.Random], str], ...] = (
    lambda draw: draw.choice(("null", "true", "{}", "[]", '""', "NaN", "-Infinity", "1e400", "-0.0", "0.1", "[null]")),
    lambda draw: str(draw.choice((-1, 0, 1, 255, 1 << 31, 1 << 32, 1 << 63, 1 << 64)) + draw.randint(-1, 1)),
    lambda draw: "9" * draw.choice((20, 400, 4300, 4301)),
    lambda draw: "[" * (depth := draw.choice((3, 300, 3000))) + "]" * depth,
    lambda draw: '{"a":' * (depth := draw.choice((3, 300, 1000))) + "1" + "}" * depth,
    lambda draw: draw.choice(('"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\u202e"', '"\x7f"', '"é😀"', '"~x/y"')),
    lambda draw: '"' + draw.choice("aé😀{}\\n") * draw.choice((1, 257, 3000)) + '"',
)
_TOML: tuple[Callable[[random.Random], str], ...] = (
    lambda draw: draw.choice(
        ("true", "{}", "[]", '""', "nan", "-inf", "1e400", "-0.0", "0.1", "1979-05-27", "07:32:00")
    ),
    lambda draw: str(draw.choice((-1, 0, 1, 255, 1 << 31, 1 << 32, 1 << 63, 1 << 64)) + draw.randint(-1, 1)),
    lambda draw: draw.choice(("9", "0xf", "0b1")) * 1 + draw.choice("19") * draw.choice((20, 400, 4300, 4301)),
    lambda draw: "[" * (depth := draw.choice((3, 300, 3000))) + "]" * depth,
    lambda draw: "{a" + ".a" * draw.choice((3, 300, 3000)) + " = 1}",
    lambda draw: draw.choice(('"\\u0000"', '"\\U0001F600"', '"\u202e"', '"\\u007f"', '"é😀"', '"~x/y"', '"~/y"')),
    lambda draw: '["' + draw.choice(("a{99999999999}", "(" * 300, "[", "\\\\1", "(?i)x", "😀")) + '"]',
    lambda draw: '"' + draw.choice("aé😀{}") * draw.choice((1, 257, 3000)) + '"',
)
_JSON_VALUE = re.compile(r'(?<=:)\s*("[^"\\]*"|[\d.eE+-]+|true|false|null|\[[^\[\]]*\])')
_TOML_VALUE = re.compile(r"(?<==)[^\n]*")
_TOML_KEY = re.compile(r"^\s*[\w.]+(?=\s*=)", re.MULTILINE)


Other = Callable[[bytes, random.Random], bytes]


def every_third(other: Other) -> Callable[[bytes, Mutate, random.Random], bytes]:
    """A target's mutate: some value replaced by an odd one, every third time; else plain changes."""

    def mutate(data: bytes, change: Mutate, draw: random.Random) -> bytes:
        return other(data, draw) if draw.random() < 0.3 else change(data)

    return mutate


def other_json(data: bytes, draw: random.Random) -> bytes:
    """The text with one of its values replaced."""
    return _replaced(data, _JSON_VALUE, _JSON, draw)


def other_toml(data: bytes, draw: random.Random) -> bytes:
    """The text with one of its values replaced, or one of its keys by one of many parts."""
    if draw.random() < 0.1:
        return _replaced(data, _TOML_KEY, (lambda draw: "a" + ".a" * draw.choice((1, 300, 3000)),), draw)
    return _replaced(data, _TOML_VALUE, _TOML, draw)


def _replaced(
    data: bytes, value: re.Pattern[str], others: tuple[Callable[[random.Random], str], ...], draw: random.Random
) -> bytes:
    text = data.decode(errors="surrogateescape")
    found = list(value.finditer(text))
    other = draw.choice(others)(draw)
    start, end = draw.choice(found).span() if found else (len(text), len(text))
    return (text[:start] + other + text[end:]).encode(errors="surrogateescape")
