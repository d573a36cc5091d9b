"""Ledger files: what a disk, or who has a hand on it, may have made of one.

An input that begins with "f" is a whole file; another is a list of edits, eleven bytes each, of a sound ledger's cells:
which column, which other value.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from del_client.entries import Charge, Entries
from del_client.ledger import Ledger
from del_client.policy import Limit, Policy, UnitLimits
from del_client.spending import budget
from del_codec.errors import ArtifactError, PrivacyRefusal
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.release import Release

from ..place import file_of
from ..target import Target

_FILE = b"f"
_NOW = 20_000 * 86_400.0
_CODEC = "ab" * 32
_SETTING = NoiseSetting.from_mu(5, 4, 1)
_SEGMENT = PrivateSegment(_SETTING, 2, b"\xa5")
_LIMITS = UnitLimits(day=Limit(rho=3.0))
_COLUMNS = tuple(
    (table, column)
    for table, columns in {
        "facts": "value",
        "releases": "day server codec conversation message secret bits scale threshold_max tokens draws mu rho",
        "clear": "tokens",
        "totals": "unit key threshold_max draws first",
        "memories": "tag codec conversation message draws used bytes",
        "segments": "memory part bits scale tokens payload",
    }.items()
    for column in columns.split()
)
_EDIT = struct.Struct("<BBBq")


def check(data: bytes) -> None:
    path = file_of("ledger.sqlite3", data[1:] if data[:1] == _FILE else sound())
    if data[:1] != _FILE:
        _edit(path, data)
    with contextlib.suppress(ArtifactError, PrivacyRefusal), Ledger(path, clock=lambda: _NOW, busy_seconds=0.1) as one:
        for use in (_look, _spend, lambda ledger: ledger.forget()):
            with contextlib.suppress(ArtifactError, PrivacyRefusal):
                use(one)


def _look(ledger: Ledger) -> None:
    for by in ("day", "server", "conversation"):
        try:
            found = budget(ledger, Policy(limits=_LIMITS), by, 5)
        except ArtifactError:
            continue
        assert found.memory_bytes >= 0
        assert all(row.rho >= 0 and row.epsilon >= 0 for row in found.rows)
    with ledger.reading() as entries:
        assert 20_000 <= entries.day <= 2_932_896
        tag = entries.tag("message", 1)
        assert all(isinstance(segment.payload, bytes) for segment in entries.remembered(tag, _CODEC))
        assert entries.times_drawn(tag) >= 0
        assert len(entries.codec_of("talk") or _CODEC) % 2 == 0


def _spend(ledger: Ledger) -> None:
    with ledger.writing() as entries:
        before = entries.spent("day", 20_000)
        _one_query(entries)
        after = entries.spent("day", 20_000)
        assert sum(each.n_draws for each in after.past) == sum(each.n_draws for each in before.past) + 8
        entries.drop_oldest(0)
        assert entries.memory_bytes() == 0


def _one_query(entries: Entries) -> None:
    release = Release(8, _SETTING.threshold_max(127))
    charge = Charge(1, "", b"", _SETTING, 2, release, 5.0, 1.0, 1e-5, 0.5)
    entries.charge([charge], server="a:1", codec=_CODEC, conversation="talk")
    entries.add("day", 20_000, [release])
    entries.add("conversation", "talk", [release])
    tag = entries.tag("message", 1)
    entries.remember(tag, codec=_CODEC, conversation="talk", message=1, segments=[_SEGMENT])
    entries.note_clear("a:1", 3)


@functools.cache
def sound() -> bytes:
    """A ledger of two queries."""
    path = file_of("sound.sqlite3", b"")
    path.unlink()
    with Ledger(path, clock=lambda: _NOW) as ledger:
        for _ in range(2):
            with ledger.writing() as entries:
                _one_query(entries)
        with ledger.writing() as entries:
            entries.add("secret", b"key", [Release(5, 1 << 31)])
    return path.read_bytes()


def _edit(path: Path, data: bytes) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=OFF")
        for column, kind, row, value in _EDIT.iter_unpack(data[: len(data) // _EDIT.size * _EDIT.size]):
            table, name = _COLUMNS[column % len(_COLUMNS)]
            keys = "name" if table == "facts" else "memory, part" if table == "segments" else "unit, key"
            order = keys if table in ("facts", "segments", "totals") else "id"
            where = f"({order}) IN (SELECT {order} FROM {table} ORDER BY {order} LIMIT 1 OFFSET {row % 5})"
            with contextlib.suppress(sqlite3.Error):
                database.execute(f"UPDATE {table} SET {name} = ? WHERE {where}", (_other(kind, value),))


def _other(kind: int, value: int) -> object:
    others: tuple[object, ...] = (
        *(
            value,
            value % 1000,
            -value,
            value & 0xFF,
            1 << 62,
            float(value),
            struct.unpack("<d", struct.pack("<q", value))[0],
        ),
        *(str(value), "", b"", struct.pack("<q", value), b"x" * (value % 4096), None),
    )
    return others[kind % len(others)]


def seeds() -> Iterator[bytes]:
    yield _FILE + sound()
    yield b""
    for column in range(len(_COLUMNS)):
        yield _EDIT.pack(column, column, column % 3, 1 << (column % 63))


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (8 << 20) + 64 * size,
    modules=("del_client.ledger", "del_client.entries", "del_client.cells"),
    most_bytes=1 << 17,
)
