"""Marks in a text: `{{Anna}}` or `{{name:Anna}}` protects what it encloses, and is gone before the text is tokenised.

`\\{{` is a plain `{{`, and `\\}}` within a mark a plain `}}`; of more backslashes right before them, two stand for one.
A mark that names a kind which the policy doesn't have is of the kind "secret", that name being part of the secret.
Knows nothing of policies or placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Container

from del_client.protection.found import Found
from del_codec.errors import InvalidValue

UNNAMED = "secret"
_SIGN = re.compile(r"(\\*)(\{\{|\}\})")
_KIND = re.compile(r"\s*([a-z][a-z0-9_-]{0,31}):\s*(?=\S)")


def read_marks(text: str, kinds: Container[str]) -> tuple[str, list[Found]]:
    """The text without its marks, and what they enclosed. Raises InvalidValue for a mark that is empty or not closed.

    kinds: the names that a mark may begin with.
    """
    outside, found = list[str](), list[Found]()
    length = position = 0
    inside: list[str] | None = None
    opened = 0
    for match in _SIGN.finditer(text):
        slashes, sign = match[1], match[2]
        if sign == "}}" and inside is None:
            continue  # closes nothing: it and its backslashes are the user's own
        escaped = len(slashes) % 2 == 1
        part = text[position : match.start()] + "\\" * (len(slashes) // 2) + (sign if escaped else "")
        position = match.end()
        if inside is None:
            outside.append(part)
            length += len(part)
            if not escaped:
                inside, opened = [], match.start()
            continue
        inside.append(part)
        if escaped:
            continue
        if sign == "{{":
            raise InvalidValue("prompt", text[opened:position], "marks don't nest: close {{ with }} first")
        kind, secret = _kind("".join(inside), kinds)
        if not secret.strip():
            raise InvalidValue("prompt", text[opened:position], r"a mark encloses nothing: write \{{ for a plain {{")
        found.append(Found(length, length + len(secret), kind))
        outside.append(secret)
        length += len(secret)
        inside = None
    if inside is not None:
        raise InvalidValue("prompt", text[opened:], r"close the mark with }}, or write \{{ for a plain {{")
    return "".join(outside) + text[position:], found


def _kind(content: str, kinds: Container[str]) -> tuple[str, str]:
    match = _KIND.match(content)
    if match and match[1] in kinds:
        return match[1], content[match.end() :]
    return UNNAMED, content
