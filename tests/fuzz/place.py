"""A place for the files that parsers are handed by name. It lives as long as the process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="del-fuzz-")


def file_of(name: str, data: bytes) -> Path:
    """A file of that name with these bytes, in place of an earlier one."""
    path = Path(_folder().name, name)
    path.write_bytes(data)
    return path
