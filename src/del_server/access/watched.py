"""Watched: what is made of some files, made anew when one of them changes. Knows nothing of what is in them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from del_codec.errors import ArtifactError, DelError

MAX_FILE_BYTES = 1 << 22
logger = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[tuple[int, ...], ...]


class Watched(Generic[T]):
    """The latest good content of some files; any thread may ask for it.

    make: content of the files' bytes, in their order; raises DelError for what can't be used. The first reading must
    succeed; later, what can't be used is logged once and what held before goes on: a rotation that writes one file
    after the other passes through states that don't fit together.
    """

    def __init__(self, paths: Sequence[Path], make: Callable[[Sequence[bytes]], T]) -> None:
        self._paths, self._make = tuple(paths), make
        self._lock = threading.Lock()
        self._stamp = self._stamps()
        self._content = make([read_bounded(path) for path in self._paths])

    def get(self) -> T:
        """The content now: a look at the files' times, and a reading where they changed."""
        with self._lock:
            self._follow()
            return self._content

    def _follow(self) -> None:
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp  # taken before the reading: what is written meanwhile changes it again
        names = ", ".join(map(str, self._paths))
        try:
            self._content = self._make([read_bounded(path) for path in self._paths])
        except DelError as error:
            logger.error("%s changed and can't be used, what held before goes on: %s", names, error)
        else:
            logger.warning("%s changed and was read anew", names)

    def _stamps(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def read_bounded(path: Path) -> bytes:
    """A file's bytes. Raises ArtifactError for one that can't be read, or is larger than any of ours."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror})") from None
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactError(f"{path} has more than {MAX_FILE_BYTES} bytes: name the right file")
    return data


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, replaced or given to another, through links too; () where there is none.

    The time of the last change (ctime) is there for a file that could not be read until its owner or mode was mended.
    """
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
