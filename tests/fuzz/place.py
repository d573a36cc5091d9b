"""A place for the files that parsers are handed by name. It lives as long as the process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")  # where no disk is waited for
    return tempfile.TemporaryDirectory(prefix="del-fuzz-", dir=memory if memory.is_dir() else None)


def file_of(name: str, data: bytes) -> Path:
    """A file of that name with these bytes, in place of an earlier one and of what SQLite kept beside that."""
    path = Path(_folder().name, name)
    for left in path.parent.glob(f"{name}-*"):
        left.unlink()
    path.write_bytes(data)
    return path
