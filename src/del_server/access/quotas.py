"""Quotas: what a class of callers may take a minute, as an operator writes it. Knows nothing of who takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from del_codec import toml
from del_codec.errors import ArtifactError, InvalidValue
from del_server.access.tokens import DEFAULT_QUOTA
from del_server.access.watched import read_bounded
from del_server.config import STREAMS, Limits

MOST_A_MINUTE = 1 << 40
# Half, so that no caller keeps all others out.
STREAMS_OF_ONE = STREAMS // 2


@dataclass(frozen=True, slots=True)
class Quota:
    """What one caller may take. Of the amounts a minute, 0 is no bound; streams: calls at once.

    tokens_a_minute: of prompts and answers together; bytes_a_minute: on the wire, both ways, codecs included. What was
    not taken of one minute's amount is there for the next, once.
    """

    queries_a_minute: int = 0
    tokens_a_minute: int = 0
    bytes_a_minute: int = 0
    streams: int = STREAMS_OF_ONE

    def __post_init__(self) -> None:
        for name in ("queries_a_minute", "tokens_a_minute", "bytes_a_minute"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MOST_A_MINUTE:
                raise InvalidValue(name, value, f"use a whole number, 0 (no bound) to {MOST_A_MINUTE}")
        if type(self.streams) is not int or not 1 <= self.streams <= STREAMS_OF_ONE:
            raise InvalidValue("streams", self.streams, f"use 1 to {STREAMS_OF_ONE}, half of what a server has for all")

    def check(self, limits: Limits, codec_bytes: int) -> None:
        """Raise InvalidValue if the largest query that a server takes, or its codec, could never pass.

        codec_bytes: of the largest device half.
        """
        if self.tokens_a_minute and self.tokens_a_minute < limits.query_tokens:
            raise InvalidValue(
                "tokens_a_minute", self.tokens_a_minute, f"use 0 or at least {limits.query_tokens}, the largest query"
            )
        least = max(limits.message_bytes, codec_bytes)
        if self.bytes_a_minute and self.bytes_a_minute < least:
            raise InvalidValue(
                "bytes_a_minute", self.bytes_a_minute, f"use 0 or at least {least}, the largest message or codec"
            )


@dataclass(frozen=True, slots=True)
class Quotas:
    """The classes of a server; those who have none are in "default"."""

    classes: Mapping[str, Quota]

    @classmethod
    def load(cls, path: Path | None) -> Quotas:
        """From a TOML file with a table for each class; None: one class without bounds a minute.

        Raises ArtifactError for a file that can't be read, InvalidValue that names class and key.
        """
        if path is None:
            return cls({DEFAULT_QUOTA: Quota()})
        try:
            tables = toml.loads(read_bounded(path).decode())
        except ValueError as error:
            raise ArtifactError(f"{path} is not TOML ({error})") from None
        classes = {name: _quota(name, table) for name, table in tables.items()}
        return cls({DEFAULT_QUOTA: Quota(), **classes})

    def check(self, limits: Limits, codec_bytes: int) -> None:
        """Raise InvalidValue, which names the class, for what contradicts a server's limits."""
        for name, quota in self.classes.items():
            try:
                quota.check(limits, codec_bytes)
            except InvalidValue as error:
                raise _of_class(name, error) from None

    def check_named(self, names: Iterable[str]) -> None:
        """Raise InvalidValue for the name of a class that there is not."""
        for name in names:
            if name not in self.classes:
                raise InvalidValue("quota", name, f"a token's class; there are {', '.join(self.classes)}: see --quotas")


def _quota(name: str, table: object) -> Quota:
    keys = [field.name for field in fields(Quota)]
    if not isinstance(table, dict):
        raise InvalidValue(f"quota {name}", table, f"write it as a table: [{name}]")
    for key in table:
        if key not in keys:
            raise InvalidValue(f"{key} of quota {name}", table[key], f"there are {', '.join(keys)}")
    try:
        return Quota(**table)
    except InvalidValue as error:
        raise _of_class(name, error) from None


def _of_class(name: str, error: InvalidValue) -> InvalidValue:
    return InvalidValue(f"{error.field} of quota {name}", error.value, error.remedy)
