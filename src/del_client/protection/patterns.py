"""Detectors by regular expression: the built-in ones, checked by what they mean, and those of a policy.

Digits are ASCII digits, and every pattern takes time linear in the text. Knows nothing of policies or placeholders.
"""

from __future__ import annotations

import calendar
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from del_client.protection.check_digits import luhn, mod_97
from del_client.protection.found import Found
from del_codec.errors import InvalidValue

MAX_PATTERN_CHARS = 1000


def _all_of(text: str) -> int:
    return len(text)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a regular expression matches, of one kind. accept: how many characters of a match count (0: none)."""

    kind: str
    expression: re.Pattern[str]
    accept: Callable[[str], int] = _all_of

    @classmethod
    def parse(cls, kind: str, expression: str) -> Pattern:
        """A user's own expression. Raises InvalidValue if it is not one. A slow expression makes prompts slow."""
        field = f"kinds.{kind}.patterns"
        if len(expression) > MAX_PATTERN_CHARS:
            raise InvalidValue(field, expression, f"use at most {MAX_PATTERN_CHARS} characters")
        try:
            return cls(kind, re.compile(expression))
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidValue(field, expression, f"not a regular expression ({error})") from None

    def find(self, text: str) -> Iterator[Found]:
        """The accepted matches; after a rejected one the search goes on behind it."""
        for match in self.expression.finditer(text):
            size = self.accept(match[0])
            if size:
                yield Found(match.start(), match.start() + size, self.kind)


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def _url(text: str) -> int:
    """Without the punctuation of the sentence around it."""
    kept = text.rstrip(".,;:!?'\"*_>")
    while kept.endswith(")") and kept.count(")") > kept.count("("):
        kept = kept[:-1].rstrip(".,;:!?'\"*_>")
    return len(kept)


def _iban(text: str) -> int:
    """The longest beginning that ends with a group and passes the check; words may follow an account number."""
    for end in (match.end() for match in reversed(list(re.finditer(r"[A-Za-z0-9]+", text)))):
        account = re.sub(r"[^A-Za-z0-9]", "", text[:end])
        if 15 <= len(account) <= 34 and mod_97(account):
            return end
    return 0


def _card(text: str) -> int:
    digits = _digits(text)
    return len(text) if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits) else 0


def _ip(text: str) -> int:
    """An address, with or without the length of its prefix; a full stop or colon behind it is not part of it."""
    kept = text.rstrip(".:") if not text.endswith("::") else text
    address, _, _ = kept.partition("/")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return 0
    return len(kept) if any(character != ":" for character in kept) else 0


def _phone(text: str) -> int:
    """7 to 15 digits (ITU-T E.164), written like a phone number: with +, a leading 0 or bracket, or in groups."""
    digits = _digits(text)
    if not 7 <= len(digits) <= 15 or _numeric_date(text):
        return 0
    grouped = re.fullmatch(r"\d{3}[ .-]\d{3}[ .-]\d{4}|\d{3}[ .-]\d{4}", text)
    return len(text) if text[0] in "+(0" or grouped else 0


def _number(text: str) -> int:
    return len(text) if len(_digits(text)) >= LONG_NUMBER else 0


_MONTHS = [name.lower() for names in (calendar.month_name, calendar.month_abbr) for name in list(names)[1:]]
_MONTH = "(?:" + "|".join(sorted({*_MONTHS, "sept"}, key=len, reverse=True)) + r")\b\.?"
_DAY = r"(?:3[01]|[12][0-9]|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"[12][0-9]{3}"
_NUMERIC_DATE = re.compile(
    r"[12][0-9]{3}([-./])(?:1[0-2]|0?[1-9])\1(?:3[01]|[12][0-9]|0?[1-9])"
    r"|(?:3[01]|[12][0-9]|0?[1-9])([-./])(?:3[01]|[12][0-9]|0?[1-9])\2(?:[12][0-9])?[0-9]{2}"
)


def _numeric_date(text: str) -> int:
    """A date in digits, with a month from 1 to 12 in one of the two places where one is written."""
    if not _NUMERIC_DATE.fullmatch(text):
        return 0
    parts = [int(part) for part in re.findall(r"[0-9]+", text)]
    return len(text) if parts[0] > 31 or min(parts[0], parts[1]) <= 12 else 0


LONG_NUMBER = 5
_IGNORE = re.IGNORECASE
_BUILT_IN = (
    # The last group gives nothing back as it is: before 3.11.5 a possessive one keeps the full stop behind an address.
    Pattern("email", re.compile(r"(?<![\w.%+'-])[\w.%+'-]++@[\w-]++(?:\.[\w-]++)+")),
    Pattern("url", re.compile(r"(?<![\w])(?:[a-z][a-z0-9+-]{1,15}://|www\.)[^\s<>\"`]+", _IGNORE), _url),
    Pattern("iban", re.compile(r"(?<![^\W_])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}+", _IGNORE), _iban),
    Pattern("card", re.compile(r"(?<![0-9])[2-6][0-9]{3}(?:[ -]?[0-9]){9,15}(?![0-9])"), _card),
    Pattern("ip", re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?(?!\w|\.[0-9])"), _ip),
    Pattern(
        "ip", re.compile(r"(?<![\w:.])(?=[0-9a-f:]*:[0-9a-f]*:)[0-9a-f:.]{2,45}+(?:/[0-9]{1,3})?(?!\w)", _IGNORE), _ip
    ),
    Pattern(
        "date", re.compile(r"(?<![\w./-])[0-9]{1,4}[-./][0-9]{1,2}[-./][0-9]{1,4}(?![\w/-]|\.[0-9])"), _numeric_date
    ),
    Pattern("date", re.compile(rf"(?<!\w){_DAY}(?: of)? {_MONTH}(?:,? {_YEAR}(?!\w))?", _IGNORE)),
    Pattern("date", re.compile(rf"(?<!\w){_MONTH} (?:{_DAY}(?!\w)(?:,? {_YEAR}(?!\w))?|{_YEAR}(?!\w))", _IGNORE)),
    Pattern("phone", re.compile(r"(?<![\w+.])(?:\+ ?|\()?[0-9](?:[ ()./-]{0,2}[0-9]){6,16}+(?!\w)"), _phone),
    Pattern("number", re.compile(r"(?<![^\W_])[A-Z]{0,4}[0-9](?:[ .-]?[0-9])*+[A-Z]{0,2}(?![^\W_])", _IGNORE), _number),
)

BUILT_IN: Mapping[str, tuple[Pattern, ...]] = MappingProxyType(
    {name: tuple(p for p in _BUILT_IN if p.kind == name) for name in dict.fromkeys(p.kind for p in _BUILT_IN)}
)
