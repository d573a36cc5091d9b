"""Placeholders: which secret each `[NAME_1]` of one conversation stands for. Kept on the device, in memory alone.

The same text of the same kind keeps its number for as long as the conversation lives. A number that the user or the
model wrote without having it from us is never given to a secret; one that the user types after it was given is taken
from its secret, stands for nothing from then on, and the secret gets another one. Knows nothing of detectors or of how
answers are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from del_codec.errors import ExhaustedError

MAX_SECRETS = 100_000
_WORD = re.compile(r"\w+")


def label(kind: str) -> str:
    """What a kind is called in a placeholder."""
    return kind.upper().replace("-", "_")


def forms(labels: Iterable[str]) -> re.Pattern[str]:
    """A placeholder as it is, or as a person or model may write it from memory.

    In any case; with a space, a hyphen or nothing for the underscore; with blanks inside of the brackets; with a
    possessive or plural s inside; without the closing bracket; and, where the underscore is kept, without the opening
    one. Groups: label and number of either form, s of the first.
    """
    names = sorted((name.replace("_", "[_ -]") for name in labels), key=len, reverse=True)
    ending = "(?<=[0-9])[_ -]|(?<![0-9])[_ -]?"  # a label that ends in a digit needs what parts it from the number
    bracketed = rf"\[ ?({'|'.join(names)})(?:{ending})([0-9]{{1,6}})(?![0-9])(?:('s|’s|s)? ?\]|(?!\w))"
    bare = rf"(?<![\w\[])({'|'.join(names).replace('[_ -]', '_')})_([0-9]{{1,6}})(?!\w)\]?"
    return re.compile(f"{bracketed}|{bare}" if names else r"(?!)()()()()()", re.IGNORECASE | re.ASCII)


def read_form(match: re.Match[str]) -> tuple[str, int, str]:
    """Label, number and ending of a match of `forms`."""
    name, number = match[1] or match[4], match[2] or match[5]
    return re.sub("[ -]", "_", name.upper()), int(number), match[3] or ""


class Placeholders:
    """The secrets of one conversation, by label and number."""

    def __init__(self) -> None:
        self._secrets: dict[tuple[str, int], str] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._highest: dict[str, int] = {}
        self._taken: set[tuple[str, int]] = set()
        self._identities: dict[str, dict[str, int]] = {}
        self._known: dict[str, str] = {}

    @property
    def known(self) -> Mapping[str, str]:
        """Every secret of the conversation, private ones too, with its kind."""
        return self._known

    @property
    def labels(self) -> set[str]:
        """The labels that placeholders were given under."""
        return set(self._highest)

    def number(self, kind: str, secret: str) -> int:
        """Which secret of its kind this is, from 1, for one that goes as noise; the same in any case and spacing."""
        self._know(secret, kind)
        words = " ".join(_WORD.findall(secret.casefold())) or secret
        identities = self._identities.setdefault(kind, {})
        return identities.setdefault(words, len(identities) + 1)

    def placeholder(self, kind: str, secret: str) -> tuple[str, int]:
        """The text that stands for a secret, and its number. Raises ExhaustedError for too many secrets."""
        self._know(secret, kind)
        name = label(kind)
        number = self._numbers.get((name, secret))
        if number is None:
            number = self._highest.get(name, 0) + 1
            while (name, number) in self._taken:
                number += 1
            self._highest[name] = self._numbers[name, secret] = number
            self._secrets[name, number] = secret
        return f"[{name}_{number}]", number

    def secret(self, name: str, number: int) -> str | None:
        """What a placeholder with this label and number stands for; None if it is not ours."""
        return self._secrets.get((name, number))

    def typed(self, name: str, number: int) -> None:
        """The user wrote it himself: it is not ours, or not any more."""
        self._taken.add((name, number))
        secret = self._secrets.pop((name, number), None)
        if secret is not None:
            del self._numbers[name, secret]

    def answered(self, text: str) -> None:
        """An answer: numbers that the model made up in it are given to no secret later."""
        for match in forms(self.labels).finditer(text):
            name, number, _ = read_form(match)
            if (name, number) not in self._secrets:
                self._taken.add((name, number))

    def _know(self, secret: str, kind: str) -> None:
        if len(self._known) >= MAX_SECRETS and secret not in self._known:
            raise ExhaustedError(f"a conversation holds {MAX_SECRETS} secrets: start another one")
        self._known.setdefault(secret, kind)
