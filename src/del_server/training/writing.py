"""Writing what training made: a file system that is full, or not ours to write to, is told in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors

from del_codec.errors import ArtifactError, first_line


@contextmanager
def writing(where: Path, remedy: str) -> Iterator[None]:
    """Raises ArtifactError with the remedy for what can't be written."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise ArtifactError(f"{where} can't be written ({why}): {remedy}") from None
