"""The wire's version, by which an old side and a new one part with a clear error.

A client names the version that it speaks in each call's metadata, a server in GetServerInfo the span that it speaks.
Fields are only ever added, so the version moves where an old side would misread a new one, not with each field.
"""

from __future__ import annotations

from del_codec.errors import MismatchError

METADATA_KEY = "del-protocol"
OLDEST, NEWEST = 1, 1


def check_client(named: str) -> None:
    """Raise MismatchError for a client of another version; "": it is as old as the first."""
    if named and not (named.isascii() and named.isdigit() and len(named) < 6 and OLDEST <= int(named) <= NEWEST):
        raise MismatchError(
            f"the client speaks version {named[:20]!r} of the wire, this server {OLDEST} to {NEWEST}: "
            "update the older one"
        )


def check_server(oldest: int, newest: int) -> None:
    """Raise MismatchError for a server that speaks another span of versions; 0: it is as old as the first."""
    if not (oldest or 1) <= NEWEST <= (newest or 1):
        raise MismatchError(
            f"the server speaks versions {oldest or 1} to {newest or 1} of the wire, this client {NEWEST}: update the "
            "older one"
        )
