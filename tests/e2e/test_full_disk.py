"""A file system that is really full, under everything that a device writes. Needs the right to mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_fakes import TinyCodec, make_codec
from filesystem import full

from del_client.codec_cache import CodecCache
from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Policy
from del_client.query import CodecOffer
from del_codec.errors import PrivacyRefusal
from del_codec.noise import NoiseSetting
from del_codec.released import release_of

TOKENS = 200
# Of room left, in pages: from none to more than one charge takes.
ROOMS = (*range(12), 16, 24, 40)
SETTING = NoiseSetting.from_mu(5, 12, 1)

COMMANDS = [("completion", "bash"), ("certify", "--dim", "4", "--bits", "1", "--mu", "5"), ("config",)]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TinyCodec:
    return make_codec(tmp_path_factory.mktemp("codec"))


def words() -> list[Span]:
    return [Span(tuple(range(TOKENS)), private=True)]


def send_until_refused(gate: Gate, codec: TinyCodec) -> int:
    """Prompts that got through."""
    sent = 0

    def send() -> None:
        nonlocal sent
        while sent < 1000:
            gate.release(codec.table, words(), SETTING)
            sent += 1

    with pytest.raises(PrivacyRefusal, match="nothing was sent"):
        send()
    return sent


@pytest.mark.parametrize("pages", ROOMS)
def test_a_charge_that_meets_it_is_refused_and_goes_through_once_there_is_room(disk, codec, pages):
    with Ledger(disk / "ledger.sqlite3") as ledger:
        gate = Gate(Policy(), ledger, "s")
        gate.release(codec.table, words(), SETTING)
        with full(disk, pages):
            sent = 1 + send_until_refused(gate, codec)
            with ledger.reading() as entries:
                assert entries.spent("day", entries.day).past == (release_of(codec.table, SETTING, sent * TOKENS),)
        gate.release(codec.table, words(), SETTING)
    with Ledger(disk / "ledger.sqlite3") as again, again.reading() as entries:
        assert entries.spent("day", entries.day).past == (release_of(codec.table, SETTING, (sent + 1) * TOKENS),)


@pytest.mark.parametrize("pages", ROOMS)
def test_a_ledger_can_be_made_or_opened_once_there_is_room(disk, codec, pages):
    old, new = disk / "old" / "ledger.sqlite3", disk / "new" / "ledger.sqlite3"
    with Ledger(old) as ledger:
        Gate(Policy(), ledger, "s").release(codec.table, words(), SETTING)
    sent = dict.fromkeys((old, new), 0)
    with full(disk, pages):
        for path in sent:
            with contextlib.suppress(PrivacyRefusal), Ledger(path) as ledger:
                sent[path] = send_until_refused(Gate(Policy(), ledger, "s"), codec)
    sent[old] += 1
    for path, before in sent.items():
        with Ledger(path) as ledger:
            Gate(Policy(), ledger, "s").release(codec.table, words(), SETTING)
            with ledger.reading() as entries:
                expected = release_of(codec.table, SETTING, (before + 1) * TOKENS)
                assert entries.spent("day", entries.day).past == (expected,)


async def test_a_codec_is_used_that_can_not_be_kept(disk, codec, caplog):
    async def chunks() -> AsyncIterator[bytes]:
        yield codec.data

    offer = CodecOffer(codec.fingerprint.hex(), len(codec.data))
    cache = CodecCache(disk / "codecs")
    with full(disk):
        table = await cache.load(offer, chunks())
    assert table.fingerprint == offer.fingerprint
    assert "is not cached" in caplog.text
    assert list(disk.rglob("*.*")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_can_not_be_written_is_told_in_a_line(command, tmp_path):
    with Path("/dev/full").open("wb") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "del_client.cli", *command],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
    assert done.returncode == 1
    assert done.stderr.startswith("del-client: not all of the output was written: ")
    assert done.stderr.count("\n") == 1
