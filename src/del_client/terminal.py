"""Text from a server made safe to show: nothing that moves the cursor, sets a title, turns text around or is not seen.

What is not seen can carry words to whatever program reads the text next, or mark it for whoever finds it again.
"""

from __future__ import annotations

import re

# C0 and C1 control characters but newline and tab.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
# Unicode's Default_Ignorable_Code_Point but SCRIPTS, marks of direction and the copy of ASCII in tags among them, and
# the marks around annotations.
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff"
    "\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_UNSAFE = re.compile(f"[{_CONTROLS}{_UNSEEN}]")
# Not seen either, but Persian, Hindi, Mongolian and emoji are not written without: joiners and selectors of a glyph.
SCRIPTS = "\u180b-\u180f\u200c\u200d\ufe0e\ufe0f"


def safe(text: str) -> str:
    """The text without control characters (newline and tab stay) and without most of what is not seen."""
    return _UNSAFE.sub("", text)


def one_line(text: str) -> str:
    """The text without control characters, on one line."""
    return " ".join(safe(text).split())
