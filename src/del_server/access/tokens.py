"""Bearer tokens: made, kept as hashes, checked. Knows nothing of gRPC or of what tokens are good for.

A token is del-ID-SECRET: ID is no secret and finds its entry, SECRET has 256 bits of the operating system's CSPRNG, so
that its SHA-256 gives nothing away and needs no salt. The file holds hashes alone; whoever reads it can't call.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from del_codec.errors import AccessDenied, ArtifactError, InvalidValue

DEFAULT_QUOTA = "default"
MAX_TOKENS = 10_000
MAX_DAYS = 3650
_ID_BYTES, _SECRET_BYTES = 8, 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TOKEN = re.compile(r"del-([0-9a-f]{16})-([A-Za-z0-9_-]{43})")
_HASH = re.compile(r"[0-9a-f]{64}")
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class Token:
    """What a server keeps of a token. expires: seconds since 1970, 0 for never; quota: the class of its limits.

    Two tokens of one name are one caller: that is how a token is replaced without a gap.
    """

    id: str
    name: str
    sha256: str
    expires: int
    quota: str = DEFAULT_QUOTA

    def __post_init__(self) -> None:
        for field in ("name", "quota"):
            if not _NAME.fullmatch(getattr(self, field)):
                raise InvalidValue(field, getattr(self, field), "use 1 to 64 letters, digits and . _ @ -")
        if not (re.fullmatch(r"[0-9a-f]{16}", self.id) and _HASH.fullmatch(self.sha256)):
            raise InvalidValue("id", self.id, "an entry has an id of 16 and a sha256 of 64 hex digits")
        if type(self.expires) is not int or self.expires < 0:
            raise InvalidValue("expires", self.expires, "use whole seconds since 1970, or 0 for never")

    def expired(self) -> bool:
        """Whether its time is over."""
        return bool(self.expires) and time.time() >= self.expires


def new_token(name: str, quota: str, days: float) -> tuple[str, Token]:
    """A token, to be told once, and what is kept of it; days: how long it holds, 0 for ever. Raises InvalidValue."""
    if not 0 <= days <= MAX_DAYS:
        raise InvalidValue("days", days, f"use 0 (for ever) to {MAX_DAYS}")
    token_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    expires = int(time.time() + days * 86_400) if days else 0
    return f"del-{token_id}-{secret}", Token(token_id, name, _digest(secret), expires, quota)


class Tokens:
    """The tokens of a server."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self.all = tuple(tokens)
        if len(self.all) > MAX_TOKENS:
            raise InvalidValue("tokens", len(self.all), f"a server has at most {MAX_TOKENS}")
        self._by_id = {token.id: token for token in self.all}
        if len(self._by_id) < len(self.all):
            raise InvalidValue("id", len(self.all), "every token has an id of its own")
        quotas: dict[str, str] = {}
        for token in self.all:
            if quotas.setdefault(token.name, token.quota) != token.quota:
                raise InvalidValue("quota", token.quota, f"all tokens of {token.name} must have one quota")

    @classmethod
    def read(cls, files: Sequence[bytes]) -> Tokens:
        """From the bytes of one file. Raises ArtifactError."""
        try:
            entries: Any = json.loads(files[0])["tokens"]
            return cls(Token(**entry) for entry in entries)
        except InvalidValue as error:
            raise ArtifactError(f"the file of tokens can't be used: {error}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ArtifactError("the file of tokens is not one that `del-server token new` writes") from None

    def written(self) -> bytes:
        """The bytes of a file."""
        return (json.dumps({"tokens": [asdict(token) for token in self.all]}, indent=1) + "\n").encode()

    def check(self, text: str) -> Token:
        """The entry of a token that is valid now, in a time that tells nothing of its secret. Raises AccessDenied."""
        match = _TOKEN.fullmatch(text)
        token = self._by_id.get(match[1]) if match else None
        right = hmac.compare_digest(_digest(match[2] if match else ""), token.sha256 if token else _NOBODY)
        if token is None or not right:
            raise AccessDenied("show a token of this server's; `del-server token new` makes one")
        return self.check_id(token.id)

    def check_id(self, token_id: str) -> Token:
        """The entry with that id. Raises AccessDenied if there is none any more, or it has expired."""
        token = self._by_id.get(token_id)
        if token is None:
            raise AccessDenied("the token was withdrawn: ask the server's operator for another")
        if token.expired():
            raise AccessDenied("the token has expired: ask the server's operator for another")
        return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
