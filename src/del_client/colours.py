"""Paint: colours for a terminal that shows them, and none anywhere else or where NO_COLOR is set (no-color.org)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO


class Paint:
    """Text in colour, or as it is."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str] = os.environ) -> Paint:
        """What suits a stream."""
        wanted = not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        return cls(wanted and stream.isatty())

    def dim(self, text: str) -> str:
        """For what stands beside the matter."""
        return self._in("2", text)

    def bold(self, text: str) -> str:
        """For headings and prompts."""
        return self._in("1", text)

    def bad(self, text: str) -> str:
        """For what an attacker reads, and for errors."""
        return self._in("31", text)

    def good(self, text: str) -> str:
        """For what an attacker doesn't read."""
        return self._in("32", text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled and text else text
