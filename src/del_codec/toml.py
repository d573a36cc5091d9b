"""TOML as our files have it: read in time and memory that the text's length bounds, into values that all can be shown.

Python's own reader takes time quadratic in the parts of a dotted key, and numbers of any length. Knows nothing of what
the keys are for.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_KEY_PARTS = 8
MAX_BITS = 1 << 13
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}", re.MULTILINE)


def loads(text: str) -> dict[str, Any]:
    """The tables of a text.

    Raises ValueError for what is not TOML, or has more than we use: keys of over MAX_KEY_PARTS parts, whole numbers of
    over MAX_BITS bits, texts with a zero character, tables deeper than Python reads.
    """
    if (key := _LONG_KEY.search(text)) is not None:
        line = text.count("\n", 0, key.end()) + 1
        raise ValueError(f"a key of over {MAX_KEY_PARTS} parts (at line {line})")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(tables)
    return tables


def _check(tables: dict[str, Any]) -> None:
    waiting: list[Any] = [tables]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ValueError(f"a whole number of over {MAX_BITS} bits")
        elif isinstance(value, str) and "\0" in value:
            raise ValueError("a text with a zero character")
