"""The file of a server's tokens: changed whole or not at all, by one process at a time.

A new one is readable to its owner alone; one that is changed keeps its owner and mode, so that a server that runs as
another user goes on reading it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from del_codec.errors import ArtifactError
from del_server.access.tokens import Token, Tokens
from del_server.access.watched import read_bounded


def read_tokens(path: Path) -> Tokens:
    """The tokens in a file. Raises ArtifactError for none, or another kind of file."""
    return Tokens.read([read_bounded(path)])


def change_tokens(path: Path, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
    """Replace a file's tokens by what `change` makes of them; a file that is not there has none.

    Raises ArtifactError if it can't be written or is another kind of file, and then leaves it as it is.
    """
    try:
        path = path.resolve()  # a link stays one
        with _alone(path):
            before = read_tokens(path).all if path.exists() else ()
            _replace(path, Tokens(change(before)).written())
    except OSError as error:
        raise ArtifactError(f"{path} can't be written ({error.strerror})") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    # Its owner's alone, too: whoever may open it may hold it.
    lock = os.open(f"{path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, data: bytes) -> None:
    # mkstemp's files are readable to their owner alone.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            if path.exists():
                _as_before(stream.fileno(), path.stat())
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _as_before(handle: int, before: os.stat_result) -> None:
    """The owner and mode that the file had. Raises OSError where they can't be given."""
    own = os.fstat(handle)
    if (own.st_uid, own.st_gid) != (before.st_uid, before.st_gid):
        os.fchown(handle, before.st_uid, before.st_gid)
    os.fchmod(handle, stat.S_IMODE(before.st_mode))
