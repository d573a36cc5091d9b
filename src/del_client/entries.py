"""Entries: what one transaction on a ledger may read and write: charges, totals, remembered bits.

Of texts only keyed hashes are kept. Knows nothing of files, policies or prompts.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from del_client.cells import MOST, blob, damaged, number, text, whole
from del_codec.errors import InvalidValue
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.release import MAX_DRAWS, Release

Grouping = Literal["day", "server", "conversation"]
SECONDS_A_DAY = 86_400
# 9999-12-31.
LAST_DAY = 2_932_896
# Of one unit, ever; more than any device draws.
MOST_DRAWS = 1 << 48
TAG_BYTES = 16
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Charge:
    """One release to be charged: consecutive or not, `tokens` tokens of one message drawn at one setting.

    secret: keyed hash of the secret that they belong to (b"" for ordinary words). release: all their draws. epsilon:
    of this release alone, at delta. mu: nominal.
    """

    message: int
    kind: str
    secret: bytes
    setting: NoiseSetting
    tokens: int
    release: Release
    mu: float
    epsilon: float
    delta: float
    rho: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What one unit has released: all of it, and what its first query released. Both by threshold, empty at first."""

    past: tuple[Release, ...] = ()
    first: tuple[Release, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Releases that belong together: a day's, a server's or a conversation's, summed by threshold.

    prompts: queries that drew anything; tokens: drawn in them.
    """

    name: str
    prompts: int
    tokens: int
    releases: tuple[Release, ...]


class Entries:
    """A ledger's entries within one transaction, at one moment.

    day counts days of UTC since 1970 and never falls: with the clock set back, charges go to the latest day known.
    """

    def __init__(self, database: sqlite3.Connection, now: float) -> None:
        self._database = database
        self.now = now
        self.day = max(int(now // SECONDS_A_DAY), self._fact("day", LAST_DAY))

    def tag(self, *parts: str | int | Iterable[int]) -> bytes:
        """A keyed hash of names and numbers, each with its length: HMAC-SHA256 under the ledger's key, 16 bytes."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            data = part.encode() if isinstance(part, str) else _packed([part] if isinstance(part, int) else part)
            digest.update(struct.pack("<Q", len(data)) + data)
        return digest.digest()[:TAG_BYTES]

    def spent(self, unit: str, key: str | int | bytes) -> Spent:
        """What a unit has released so far. key: a day, a conversation's name, a message's or a secret's tag."""
        rows = self._database.execute(
            "SELECT threshold_max, draws, first FROM totals WHERE unit = ? AND key = ? ORDER BY threshold_max",
            (unit, key),
        ).fetchall()
        return Spent(
            tuple(release for threshold, draws, _ in rows for release in _releases(draws, threshold)),
            tuple(release for threshold, _, first in rows for release in _releases(first, threshold)),
        )

    def charge(self, charges: Sequence[Charge], *, server: str, codec: str, conversation: str) -> None:
        """Write one query's releases, and add them to its day."""
        query = self._fact("query") + 1
        self._set("query", query)
        self._set("day", self.day)
        self._database.executemany(
            "INSERT INTO releases VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(query, self.now, self.day, server, bytes.fromhex(codec), conversation, one.message, one.kind),
                    *(one.secret, one.setting.bits, one.setting.scale, one.release.threshold_max, one.tokens),
                    *(one.release.n_draws, one.mu, one.epsilon, one.delta, one.rho),
                )
                for one in charges
            ],
        )

    def add(self, unit: str, key: str | int | bytes, releases: Iterable[Release]) -> None:
        """Add releases of one query to a unit's total."""
        first = not self.spent(unit, key).past
        for release in releases:
            self._database.execute(
                "INSERT INTO totals VALUES (?1, ?2, ?3, ?4, ?4 * ?5) ON CONFLICT DO UPDATE SET "
                "draws = draws + ?4, first = first + ?4 * ?5",
                (unit, key, release.threshold_max, release.n_draws, first),
            )

    def note_clear(self, server: str, tokens: int) -> None:
        """Write that tokens were sent without privacy."""
        self._database.execute("INSERT INTO clear VALUES (NULL, ?, ?, ?, ?)", (self.now, self.day, server, tokens))
        self._set("day", self.day)

    def groups(self, by: Grouping, last: int) -> list[Group]:
        """The `last` days, servers or conversations that were charged latest, the latest last."""
        column = {"day": "day", "server": "server", "conversation": "conversation"}[by]
        names = self._database.execute(
            f"SELECT {column}, count(DISTINCT query), sum(tokens) FROM releases GROUP BY {column} "
            "ORDER BY max(id) DESC LIMIT ?",
            (last,),
        ).fetchall()
        return [
            Group(_name(name, column), prompts, whole(tokens, "tokens"), self._of_group(column, name))
            for name, prompts, tokens in names[::-1]
        ]

    def _of_group(self, column: str, name: str | int) -> tuple[Release, ...]:
        rows = self._database.execute(
            f"SELECT threshold_max, sum(draws) FROM releases WHERE {column} = ? GROUP BY threshold_max", (name,)
        )
        return tuple(release for threshold, draws in rows for release in _releases(draws, threshold))

    def latest(self) -> tuple[str, float, Release] | None:
        """(conversation, nominal mu, one token's draws) of the latest charge; None in a new ledger."""
        row = self._database.execute(
            "SELECT conversation, mu, draws / tokens, threshold_max FROM releases ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        return text(row[0], "conversation"), number(row[1], "mu"), _release(row[2], row[3])

    def tokens_in_the_clear(self) -> int:
        """Private tokens that were sent without privacy, ever."""
        return whole(self._database.execute("SELECT coalesce(sum(tokens), 0) FROM clear").fetchone()[0], "tokens")

    def memory_bytes(self) -> int:
        """Bytes of remembered bits."""
        return self._fact("memory_bytes")

    def codec_of(self, conversation: str) -> str | None:
        """The fingerprint of the codec that a conversation's latest bits were drawn with; None for a new one."""
        row = self._database.execute(
            "SELECT codec FROM releases WHERE conversation = ? ORDER BY id DESC LIMIT 1", (conversation,)
        ).fetchone()
        return None if row is None else blob(row[0], "codec").hex()

    def remembered(self, tag: bytes, codec: str) -> list[PrivateSegment]:
        """The bits sent for a message under a codec, in order; none if they were never drawn, or are dropped."""
        row = self._database.execute(
            "SELECT id FROM memories WHERE tag = ? AND codec = ? AND bytes > 0", (tag, bytes.fromhex(codec))
        ).fetchone()
        if row is None:
            return []
        rows = self._database.execute(
            "SELECT bits, scale, tokens, payload FROM segments WHERE memory = ? ORDER BY part", row
        )
        return [_segment(*columns) for columns in rows]

    def times_drawn(self, tag: bytes) -> int:
        """How often a message's bits were drawn, under any codec, as far as is remembered."""
        row = self._database.execute("SELECT sum(draws) FROM memories WHERE tag = ?", (tag,)).fetchone()
        return whole(row[0] or 0, "draws")

    def remember(
        self, tag: bytes, *, codec: str, conversation: str, message: int, segments: Sequence[PrivateSegment]
    ) -> None:
        """Keep a message's bits, in place of those it had under this codec."""
        size = sum(len(segment.payload) for segment in segments)
        self._drop_bits("tag = ? AND codec = ?", (tag, bytes.fromhex(codec)))
        self._database.execute(
            "INSERT INTO memories VALUES (NULL, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET "
            "draws = draws + 1, used = excluded.used, bytes = excluded.bytes",
            (tag, bytes.fromhex(codec), conversation, message, self._fact("query"), size),
        )
        memory = self._database.execute(
            "SELECT id FROM memories WHERE tag = ? AND codec = ?", (tag, bytes.fromhex(codec))
        ).fetchone()[0]
        self._database.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
            [
                (memory, part, one.setting.bits, one.setting.scale, one.tokens, one.payload)
                for part, one in enumerate(segments)
            ],
        )
        self._database.execute(
            "UPDATE memories SET used = ? WHERE conversation = ?", (self._fact("query"), conversation)
        )
        self._set("memory_bytes", self._fact("memory_bytes") + size)

    def drop_oldest(self, memory_bytes: int) -> None:
        """Drop the bits of the conversations that drew longest ago until at most `memory_bytes` bytes are left."""
        while self._fact("memory_bytes") > memory_bytes:
            row = self._database.execute(
                "SELECT conversation FROM memories WHERE bytes > 0 ORDER BY used, id LIMIT 1"
            ).fetchone()
            if row is None:
                raise damaged("memory_bytes")
            self._drop_bits("conversation = ?", row)

    def forget(self, conversation: str | None) -> int:
        """Erase bits and hashes of a conversation's messages, or all; the number of messages."""
        condition, values = ("1", ()) if conversation is None else ("conversation = ?", (conversation,))
        self._drop_bits(condition, values)
        return self._database.execute(f"DELETE FROM memories WHERE {condition}", values).rowcount

    def accept_clock(self) -> int:
        """Take the clock's day where the ledger is ahead of it; by how many days it was."""
        ahead = self.day - int(self.now // SECONDS_A_DAY)
        self.day -= ahead
        self._set("day", self.day)
        return ahead

    def _drop_bits(self, condition: str, values: Sequence[object]) -> None:
        found = f"SELECT id FROM memories WHERE bytes > 0 AND {condition}"
        self._database.execute(f"DELETE FROM segments WHERE memory IN ({found})", values)
        size = self._database.execute(f"SELECT sum(bytes) FROM memories WHERE {condition}", values).fetchone()[0] or 0
        self._database.execute(f"UPDATE memories SET bytes = 0 WHERE {condition}", values)
        self._set("memory_bytes", self._fact("memory_bytes") - size)

    @cached_property
    def _key(self) -> bytes:
        found = blob(self._value("key"), "key")
        if len(found) != KEY_BYTES:
            raise damaged("key")
        return found

    def _fact(self, name: str, most: int = MOST) -> int:
        return whole(self._value(name), name, most)

    def _value(self, name: str) -> object:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _set(self, name: str, value: int) -> None:
        self._database.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))


def _releases(draws: object, threshold: object) -> Iterator[Release]:
    """That many draws, 0 or more, in as few releases as hold them."""
    left = whole(draws, "draws", MOST_DRAWS)
    while left > 0:
        yield _release(min(left, MAX_DRAWS), threshold)
        left -= MAX_DRAWS


def _release(draws: object, threshold: object) -> Release:
    try:
        return Release(whole(draws, "draws"), whole(threshold, "threshold_max"))
    except InvalidValue:
        raise damaged("draws or threshold_max") from None


def _segment(bits: object, scale: object, tokens: object, payload: object) -> PrivateSegment:
    try:
        setting = NoiseSetting(whole(bits, "bits"), whole(scale, "scale"))
        return PrivateSegment(setting, whole(tokens, "tokens"), blob(payload, "payload"))
    except InvalidValue:
        raise damaged("bits of a message") from None


def _name(value: object, column: str) -> str:
    """A group's name; a day's is its number."""
    return str(whole(value, column, LAST_DAY)) if column == "day" else text(value, column)


def _packed(numbers: Iterable[int]) -> bytes:
    return b"".join(number.to_bytes(8, "little", signed=True) for number in numbers)
