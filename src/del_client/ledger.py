"""Ledger: what this device has given away, in one SQLite file that several processes share.

A charge is on the disk before the bytes that it is for leave the device (write-ahead log, synchronous=FULL: one fsync a
commit), so that a crash can only over-count. Check, charge and the new bits are one BEGIN IMMEDIATE transaction.
docs/ledger.md explains the file. Knows nothing of policies or prompts: the gate decides what is charged, and whether.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from del_client.entries import KEY_BYTES, Entries
from del_codec.errors import ArtifactError, PrivacyRefusal

SCHEMA_VERSION = 1
APPLICATION_ID = 0x44454C31  # "DEL1"
MAX_LEDGER_BYTES = 1 << 30
BUSY_SECONDS = 30.0
_PAGE_BYTES = 4096
_WAL_BYTES = 4 << 20

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE releases (
    id INTEGER PRIMARY KEY, query INTEGER NOT NULL, at REAL NOT NULL, day INTEGER NOT NULL, server TEXT NOT NULL,
    codec BLOB NOT NULL, conversation TEXT NOT NULL, message INTEGER NOT NULL, kind TEXT NOT NULL,
    secret BLOB NOT NULL, bits INTEGER NOT NULL, scale INTEGER NOT NULL, threshold_max INTEGER NOT NULL,
    tokens INTEGER NOT NULL, draws INTEGER NOT NULL, mu REAL NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL,
    rho REAL NOT NULL
);
CREATE INDEX releases_of_conversation ON releases (conversation, id);
CREATE TABLE clear (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, day INTEGER NOT NULL, server TEXT NOT NULL, tokens INTEGER NOT NULL
);
CREATE TABLE totals (
    unit TEXT NOT NULL, key BLOB NOT NULL, threshold_max INTEGER NOT NULL, draws INTEGER NOT NULL,
    first INTEGER NOT NULL, PRIMARY KEY (unit, key, threshold_max)
) WITHOUT ROWID;
CREATE TABLE memories (
    id INTEGER PRIMARY KEY, tag BLOB NOT NULL, codec BLOB NOT NULL, conversation TEXT NOT NULL,
    message INTEGER NOT NULL, draws INTEGER NOT NULL, used INTEGER NOT NULL, bytes INTEGER NOT NULL,
    UNIQUE (tag, codec)
);
CREATE INDEX memories_by_use ON memories (used, id) WHERE bytes > 0;
CREATE INDEX memories_of_conversation ON memories (conversation);
CREATE TABLE segments (
    memory INTEGER NOT NULL REFERENCES memories (id) ON DELETE CASCADE, part INTEGER NOT NULL, bits INTEGER NOT NULL,
    scale INTEGER NOT NULL, tokens INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (memory, part)
) WITHOUT ROWID;
"""


def default_path() -> Path:
    """$XDG_STATE_HOME/del/ledger.sqlite3, or ~/.local/state/del/ledger.sqlite3."""
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "del" / "ledger.sqlite3"


class Ledger:
    """The ledger in one file, made where it is missing. Threads and processes may share it; close it, or use `with`.

    clock gives seconds since 1970. max_bytes bounds the file, its log apart. Raises ArtifactError for a file that is
    damaged, of another kind, of a newer version or not the user's own, PrivacyRefusal where it can't be written.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_LEDGER_BYTES,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self.path = path or default_path()
        self._clock = clock
        self._max_pages = max(max_bytes // _PAGE_BYTES, 1)
        self._busy_seconds = busy_seconds
        self._lock = threading.RLock()
        self._process = os.getpid()
        with self._errors():
            _make_file(self.path)
            self._database = self._open()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        with self._lock:
            if self._process == os.getpid():
                self._database.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Entries]:
        """One transaction that no other process can come between: durable when the block ends, undone if it raises."""
        with self._session() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield Entries(database, self._clock())
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Entries]:
        """One unchanging view, for looking only; writers don't wait for it."""
        with self._session() as database:
            database.execute("BEGIN")
            try:
                yield Entries(database, self._clock())
            finally:
                database.execute("ROLLBACK")

    def forget(self, conversation: str | None = None) -> int:
        """Erase the remembered bits of a conversation, or all; the spend stays. How many messages were forgotten.

        What is erased is overwritten in the file, and its log is emptied. Raises PrivacyRefusal where another process
        that reads just now keeps the log from being emptied.
        """
        with self.writing() as entries:
            count = entries.forget(conversation)
        with self._session() as database:
            busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise PrivacyRefusal(
                f"the bits are erased from {self.path}, but another process still reads its log, which may hold them: "
                "try again when it is done"
            )
        return count

    @contextlib.contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            if self._process != os.getpid():  # a connection must not be carried across a fork
                self._database, self._process = self._open(), os.getpid()
            yield self._database

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False)
        try:
            if not _is_new(database):
                self._check_kind(database)  # before anything of another program's file is changed
            _close_to_others(self.path)
            database.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            _use_write_ahead_log(database, self._busy_seconds)
            for name, value in (
                ("synchronous", "FULL"),
                ("secure_delete", "ON"),
                ("foreign_keys", "ON"),
                ("trusted_schema", "OFF"),
                ("journal_size_limit", _WAL_BYTES),
                ("max_page_count", self._max_pages),
            ):
                database.execute(f"PRAGMA {name}={value}")
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Make the tables of a new file; raise ArtifactError for one that isn't of this version."""
        if _is_new(database):
            database.execute("BEGIN IMMEDIATE")
            try:
                if _is_new(database):  # no other process was faster
                    _create(database)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
        self._check_kind(database)

    def _check_kind(self, database: sqlite3.Connection) -> None:
        if _kind_of(database) != (APPLICATION_ID, SCHEMA_VERSION):
            raise ArtifactError(
                f"{self.path} is not a ledger of version {SCHEMA_VERSION}: name another file, or use the program that "
                "wrote it; nothing was sent"
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours. Every one of them means that nothing may be sent."""
        try:
            yield
        except OSError as error:
            raise PrivacyRefusal(f"the ledger {self.path} can't be made ({error.strerror}): nothing was sent") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.DatabaseError | UnicodeDecodeError) -> ArtifactError | PrivacyRefusal:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            why = f"another process held it for {self._busy_seconds:g} s; try again"
        elif name.startswith("SQLITE_FULL"):
            why = (
                f"no room is left on the disk, or in its {self._max_pages * _PAGE_BYTES} bytes; free some space, "
                "or erase remembered bits with `del-client budget --forget --all`"
            )
        elif isinstance(error, UnicodeDecodeError) or name.startswith(
            ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_SCHEMA", "SQLITE_ERROR")
        ):
            return ArtifactError(
                f"the ledger {self.path} is damaged ({error}): nothing was sent; restore it, or move it away to begin "
                "with nothing spent"
            )
        else:
            why = str(error)
        return PrivacyRefusal(f"the spend can't be written to the ledger {self.path} ({why}): nothing was sent")


def _make_file(path: Path) -> None:
    """An empty file that only its owner may read, in a folder of the same kind where that is missing too; durable."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise ArtifactError(f"{path} is not a regular file of this user: name another ledger; nothing was sent")
    finally:
        os.close(handle)
    for folder in (path.parent, *(each.parent for each in made)):
        _sync_folder(folder)


def _close_to_others(path: Path) -> None:
    """Only its owner may read the file."""
    if stat.S_IMODE(path.stat().st_mode) != 0o600:
        path.chmod(0o600)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _use_write_ahead_log(database: sqlite3.Connection, seconds: float) -> None:
    """Switch the file to its log; SQLite does not wait by itself where two processes do so at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise PrivacyRefusal(f"the ledger's file system has no shared memory for SQLite's log (mode {mode}): move it")


def _is_new(database: sqlite3.Connection) -> bool:
    return _kind_of(database) == (0, 0) and not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def _kind_of(database: sqlite3.Connection) -> tuple[int, int]:
    """(application, version) of a file; both 0 where nobody set them."""
    application, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application, version


def _create(database: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):
        database.execute(statement)
    facts = [("key", secrets.token_bytes(KEY_BYTES)), ("day", 0), ("query", 0), ("memory_bytes", 0)]
    database.executemany("INSERT INTO facts VALUES (?, ?)", facts)
    database.execute(f"PRAGMA application_id={APPLICATION_ID}")
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
