"""Cells of a ledger's rows: SQLite keeps values of any type in any column, so each is looked at before it is used.

Raises ArtifactError for a damaged one. Knows nothing of tables.
"""

from __future__ import annotations

from del_codec.errors import ArtifactError

MOST = 1 << 62


def damaged(name: str) -> ArtifactError:
    """The error for a value that no ledger of ours holds."""
    return ArtifactError(f"the ledger's {name} is damaged: nothing was sent; restore the file, or move it away")


def whole(value: object, name: str, most: int = MOST) -> int:
    """A whole number from 0."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise damaged(name)
    return value


def number(value: object, name: str) -> float:
    """A number from 0; infinity is one."""
    if not isinstance(value, float) or not value >= 0:
        raise damaged(name)
    return value


def text(value: object, name: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise damaged(name)
    return value


def blob(value: object, name: str) -> bytes:
    """Bytes."""
    if not isinstance(value, bytes):
        raise damaged(name)
    return value
