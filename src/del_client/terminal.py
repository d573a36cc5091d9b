"""Text from a server made safe for a terminal: nothing that moves the cursor, sets a title or turns text around."""

from __future__ import annotations

import re

# C0 and C1 control characters but newline and tab, and the marks that change the direction of text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """The text without control characters (newline and tab stay)."""
    return _UNSAFE.sub("", text)


def one_line(text: str) -> str:
    """The text without control characters, on one line."""
    return " ".join(safe(text).split())
