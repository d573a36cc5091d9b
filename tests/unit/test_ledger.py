"""The ledger: who may read its file, what is in it, who may write at once, and what if it can't be written."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_fakes import make_codec

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import SCHEMA_VERSION, Ledger, default_path
from del_client.policy import Limit, Policy, UnitLimits
from del_client.spending import budget
from del_codec.accounting import certify, rho
from del_codec.errors import ArtifactError, DelError, LimitExceeded, PrivacyRefusal
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.table import LatentTable

DAY = 86_400


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("codec")).table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def setting() -> NoiseSetting:
    return NoiseSetting.from_mu(5, 12, 1)


def words(*ids: int, message: int = 0) -> Span:
    return Span(ids, private=True, message=message)


def payloads(prepared) -> list[bytes]:
    return [segment.payload for segment in prepared.segments if isinstance(segment, PrivateSegment)]


class TestFile:
    def test_only_its_owner_may_read_it(self, path, ledger, table, setting):
        Gate(Policy(), ledger, "s").release(table, [words(5)], setting)
        names = sorted(each.name for each in path.parent.iterdir())
        assert names == ["ledger.sqlite3", "ledger.sqlite3-shm", "ledger.sqlite3-wal"]
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_a_file_that_others_may_read_is_closed_to_them(self, path, ledger):
        ledger.close()
        path.chmod(0o644)
        with Ledger(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_commits_are_synced(self, ledger):
        with ledger.reading() as entries:
            database = entries._database
            assert database.execute("PRAGMA synchronous").fetchone() == (2,)
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert database.execute("PRAGMA secure_delete").fetchone() == (1,)

    def test_it_holds_no_text_and_no_token_ids(self, path, ledger, table, setting):
        ids = tuple(range(100, 164))
        Gate(Policy(), ledger, "s").release(table, [words(*ids)], setting, "a")
        ledger.close()
        data = path.read_bytes()
        for width in (1, 2, 4, 8):
            assert b"".join(number.to_bytes(width, "little") for number in ids[:4]) not in data
            assert b"".join(number.to_bytes(width, "big") for number in ids[:4]) not in data

    def test_it_is_where_the_state_of_programs_is_kept(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert default_path() == tmp_path / "del" / "ledger.sqlite3"
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", "/home/me")
        assert default_path() == Path("/home/me/.local/state/del/ledger.sqlite3")

    @pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 2000])
    def test_a_damaged_one(self, path, content):
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"damaged.*nothing was sent"):
            Ledger(path)

    def test_bytes_that_changed_are_an_error_of_ours_or_none(self, path, table, setting):
        with Ledger(path) as ledger:
            for name in "abcdef":
                Gate(Policy(), ledger, "s").release(table, [words(*range(40))], setting, name)
        whole, draw = path.read_bytes(), random.Random(0)
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(draw.choice([1, 30])):
                damaged[draw.randrange(len(whole))] = draw.randrange(256)
            path.write_bytes(damaged)
            with contextlib.suppress(DelError), Ledger(path) as ledger:
                Gate(Policy(), ledger, "s").release(table, [words(*range(40))], setting, "a")
                budget(ledger, Policy(), "conversation", 5)
            for log in path.parent.glob("*-*"):
                log.unlink()

    def test_one_of_another_program_or_version(self, path, ledger):
        ledger.close()
        for pragma in (f"user_version = {SCHEMA_VERSION + 1}", f"application_id = {7}"):
            with sqlite3.connect(path) as database:
                database.execute(f"PRAGMA {pragma}")
            database.close()
            with pytest.raises(ArtifactError, match="not a ledger of version 1"):
                Ledger(path)

    def test_one_that_another_program_made_without_a_mark(self, path):
        path.parent.mkdir()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (id)")
        database.close()
        with pytest.raises(ArtifactError, match="not a ledger"):
            Ledger(path)

    def test_what_is_no_ledger_is_left_as_it_is(self, path):
        path.parent.mkdir()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (id)")
        database.close()
        for content in (path.read_bytes(), b"a letter\n" * 1000):
            path.write_bytes(content)
            path.chmod(0o644)
            with pytest.raises(ArtifactError):
                Ledger(path)
            assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (content, 0o644)
            assert list(path.parent.iterdir()) == [path]

    def test_a_link_or_a_folder(self, path, ledger, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(path)
        for bad in (link, tmp_path):
            with pytest.raises(PrivacyRefusal, match="can't be made"):
                Ledger(bad)

    def test_entries_survive_a_new_start(self, path, table, setting):
        with Ledger(path) as ledger:
            first = Gate(Policy(), ledger, "s").release(table, [words(*range(200))], setting, "a")
        with Ledger(path) as ledger:
            again = Gate(Policy(), ledger, "s").release(table, [words(*range(200))], setting, "a")
            assert again.segments == first.segments
            with ledger.reading() as entries:
                assert entries.spent("conversation", "a").past == (release_of(table, setting, 200),)


class TestNoRoom:
    def test_a_full_ledger_refuses_and_charges_nothing(self, path, table, setting):
        with Ledger(path, max_bytes=1 << 17) as ledger:
            gate, sent = Gate(Policy(), ledger, "s"), 0

            def fill() -> None:
                nonlocal sent
                for sent in range(1000):
                    gate.release(table, [words(*range(256))], setting, str(sent))

            with pytest.raises(PrivacyRefusal, match=r"no room .*budget --forget --all"):
                fill()
            assert sent > 10
            with ledger.reading() as entries:
                assert entries.spent("conversation", str(sent)).past == ()
            assert ledger.forget() > 0
            gate.release(table, [words(5)], setting)

    def test_a_full_disk_refuses(self, path, table, setting):
        """A process whose files may not grow meets what a full disk would give it."""
        with Ledger(path):
            pass
        assert _in_a_process(_write_without_room, path, table, setting) == "refused"


def _write_without_room(path: Path, table: LatentTable, setting: NoiseSetting) -> str:
    ledger = Ledger(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))
    try:
        for _ in range(100):
            Gate(Policy(), ledger, "s").release(table, [words(*range(256))], setting)
    except PrivacyRefusal as error:
        return "refused" if "nothing was sent" in str(error) else str(error)
    return "sent"


def _charge_one_token(path: Path, table: LatentTable, setting: NoiseSetting, name: str) -> None:
    with Ledger(path) as ledger:
        Gate(Policy(), ledger, "s").release(table, [words(5)], setting, name)


def _in_a_process(function, *arguments) -> str:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return str(pool.apply(function, arguments))


class TestSharing:
    def test_another_process_that_holds_it_is_waited_for_and_then_named(self, path, ledger, table, setting):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with Ledger(path, busy_seconds=0.05) as second:
            with pytest.raises(PrivacyRefusal, match=r"another process .*nothing was sent"):
                Gate(Policy(), second, "s").release(table, [words(5)], setting)
            other.execute("ROLLBACK")
            Gate(Policy(), second, "s").release(table, [words(5)], setting)
        other.close()

    def test_processes_that_make_it_at_once_make_one(self, path, table, setting):
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            for turn in range(5):
                shared = path.with_name(f"{turn}.sqlite3")
                pool.starmap(_charge_one_token, [(shared, table, setting, str(number)) for number in range(3)])
                with Ledger(shared) as ledger, ledger.reading() as entries:
                    assert entries.spent("day", entries.day).past == (release_of(table, setting, 3),)

    def test_threads_share_one(self, ledger, table, setting):
        gate = Gate(Policy(), ledger, "s")
        threads = [
            threading.Thread(target=lambda: [gate.release(table, [words(5, 6)], setting, "a" * n) for n in range(1, 9)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ledger.reading() as entries:
            assert entries.spent("day", entries.day).past == (release_of(table, setting, 16),)

    def test_a_forked_child_uses_a_connection_of_its_own(self, ledger, table, setting):
        gate = Gate(Policy(), ledger, "s")
        gate.release(table, [words(5)], setting, "a")
        child = os.fork()
        if child == 0:
            try:
                gate.release(table, [words(5)], setting, "b")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        gate.release(table, [words(5)], setting, "c")
        with ledger.reading() as entries:
            assert entries.spent("day", entries.day).past == (release_of(table, setting, 3),)


class TestDays:
    def test_a_day_is_one_of_utc(self, path):
        for now, day in ((0.0, 0), (DAY - 1.0, 0), (float(DAY), 1)):
            with Ledger(path.with_name(str(now)), clock=lambda now=now: now) as ledger, ledger.reading() as entries:
                assert entries.day == day

    def test_a_new_day_has_a_budget_of_its_own_and_a_clock_set_back_has_none(self, path, table, setting):
        now = 100.0 * DAY
        with Ledger(path, clock=lambda: now) as ledger:
            limits = UnitLimits(day=Limit(rho=1.001 * rho(release_of(table, setting, 2))))
            gate = Gate(Policy(limits=limits), ledger, "s")
            gate.release(table, [words(5, 6)], setting)
            with pytest.raises(LimitExceeded):
                gate.release(table, [words(5)], setting)
            now = 101.0 * DAY
            gate.release(table, [words(5)], setting)
            for back in (100.0, 99.0, 1.0):
                now = back * DAY
                gate.release(table, [words(5)], setting) if back == 100 else None
                with pytest.raises(LimitExceeded, match=r"limits\.day\.rho"):
                    gate.release(table, [words(5)], setting)

    def test_a_day_ahead_of_the_clock_is_left_only_on_purpose(self, path, table, setting):
        now = 100.0 * DAY
        with Ledger(path, clock=lambda: now) as ledger:
            Gate(Policy(), ledger, "s").release(table, [words(5)], setting)
            now = 90.0 * DAY
            with ledger.writing() as entries:
                assert entries.day == 100
                assert entries.accept_clock() == 10
            with ledger.reading() as entries:
                assert entries.day == 90


class TestMemory:
    def test_old_conversations_are_dropped_first(self, ledger, table, setting):
        size = len(range(80)) * 12 // 8
        gate = Gate(Policy(memory_bytes=3 * size, redraws=0), ledger, "s")
        first = {name: gate.release(table, [words(*range(80))], setting, name) for name in "abc"}
        gate.release(table, [words(*range(80)), words(7, message=2)], setting, "a")  # "b" is now the oldest
        with ledger.reading() as entries:
            assert entries._fact("memory_bytes") <= 3 * size
        for name in "ac":
            prepared = gate.release(table, [words(*range(80))], setting, name)
            assert prepared.segments == first[name].segments
        with pytest.raises(PrivacyRefusal, match="redraws"):
            gate.release(table, [words(*range(80))], setting, "b")

    def test_forgetting_erases_the_bits_and_keeps_the_spend(self, path, ledger, table, setting):
        gate = Gate(Policy(), ledger, "s")
        sent = payloads(gate.release(table, [words(*range(200))], setting, "a"))
        kept = payloads(gate.release(table, [words(*range(200))], setting, "b"))
        assert ledger.forget("a") == 1
        on_disk = path.read_bytes() + path.with_name(path.name + "-wal").read_bytes()
        assert not any(payload[at : at + 16] in on_disk for payload in sent for at in range(0, 300, 16))
        assert payloads(gate.release(table, [words(*range(200))], setting, "b")) == kept
        with ledger.reading() as entries:
            assert entries.spent("conversation", "a").past == (release_of(table, setting, 200),)
        assert payloads(gate.release(table, [words(*range(200))], setting, "a")) != sent
        assert ledger.forget() == 2
        with ledger.reading() as entries:
            assert entries._fact("memory_bytes") == 0

    def test_tags_keep_their_parts_apart(self, ledger):
        with ledger.reading() as entries:
            tags = {
                entries.tag("ab", "c", 1, [2, 3]),
                entries.tag("a", "bc", 1, [2, 3]),
                entries.tag("ab", "c", 1, [2], [3]),
                entries.tag("ab", "c", [1, 2], [3]),
                entries.tag("ab", "c", -1, [2, 3]),
            }
        assert len(tags) == 5

    def test_another_ledger_has_other_tags(self, ledger, path):
        with Ledger(path.with_name("second")) as second, second.reading() as there, ledger.reading() as here:
            assert here.tag("a", 1) != there.tag("a", 1)


def test_a_hundred_conversations_of_ten_turns(path, table, setting):
    """Every turn repeats the bits of all earlier ones, and the spend is the exact composition of what was new."""
    certificates = {}
    with Ledger(path) as ledger:
        gate = Gate(Policy(), ledger, "s")
        for conversation in range(100):
            name, sent = f"conversation {conversation}", []
            for turn in range(10):
                ids = [(conversation + turn * 7 + at) % 300 for at in range(3 + turn)]
                spans = [
                    *(words(*earlier, message=2 * at) for at, (earlier, _) in enumerate(sent)),
                    words(*ids, message=2 * turn),
                ]
                found = payloads(gate.release(table, spans, setting, name))
                assert found[:-1] == [payload for _, payload in sent]
                sent.append((ids, found[-1]))
            with ledger.reading() as entries:
                past = entries.spent("conversation", name).past
            tokens = sum(len(ids) for ids, _ in sent)
            certificates[name] = certify(past, unit="conversation", tokens=tokens, delta=1e-5)
        with ledger.reading() as entries:
            day = entries.spent("day", entries.day).past
    tokens = sum(3 + turn for turn in range(10))
    exact = certify([release_of(table, setting, tokens)], unit="conversation", tokens=tokens, delta=1e-5)
    assert set(map(repr, certificates.values())) == {repr(exact)}
    assert day == (release_of(table, setting, 100 * tokens),)
