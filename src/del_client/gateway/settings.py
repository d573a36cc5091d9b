"""GatewaySettings: what the gateway's operator decides. Knows nothing of HTTP frameworks or command lines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from del_client.defaults import GATEWAY_HOST, GATEWAY_PORT
from del_client.message import MAX_PROMPT_CHARS
from del_client.options import OptionArguments
from del_codec.address import is_loopback
from del_codec.errors import InvalidValue

MIN_TOKEN_CHARS = 16
MAX_FILE_BYTES = 1 << 20
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where the gateway listens, whom it answers, and what bounds it.

    host, port: to listen on; port 0: any free one. token: what every caller must show; needed unless host is loopback.
    names: of the Host header that are answered beside the loopback's and `host`. models: names that stand for the
    served model beside its own; "*" for any. public: SHA-256, in hex, of texts that may leave in the clear. options:
    of every answer that doesn't name others. most_answers: at the same time. body_bytes: of a request; the default
    holds a prompt of the most characters at JSON's six bytes for each, and a quarter of that for what stands around it.
    most_connections: open at the same time. head_seconds: that a request's head may take, from the connection's
    beginning or the head's. body_seconds: that its body may take. first_seconds: that a stream waits for its first
    token, so that an error before it has a status of its own. reader_seconds: that a caller may take nothing of what
    waits for it. ping_seconds: between signs of life in a silent stream. remembered_lists, remembered_chars: what is
    kept to recognise chats by.
    """

    host: str = GATEWAY_HOST
    port: int = GATEWAY_PORT
    token: str | None = None
    names: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    public: frozenset[str] = frozenset()
    options: OptionArguments = field(default_factory=OptionArguments)
    most_answers: int = 64
    body_bytes: int = 8 * MAX_PROMPT_CHARS
    most_connections: int = 256
    head_seconds: float = 30.0
    body_seconds: float = 30.0
    first_seconds: float = 10.0
    reader_seconds: float = 30.0
    ping_seconds: float = 15.0
    remembered_lists: int = 4096
    remembered_chars: int = 16 << 20

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise InvalidValue("host", self.host, "use an address or a name, as in 127.0.0.1")
        if not 0 <= self.port < 1 << 16:
            raise InvalidValue("port", self.port, "use a number from 0 (any free one) to 65535")
        if self.token is not None and (len(self.token) < MIN_TOKEN_CHARS or not self.token.isascii()):
            raise InvalidValue("token", f"{len(self.token)} characters", f"use at least {MIN_TOKEN_CHARS} of ASCII")
        if self.token is None and not is_loopback(self.host):
            raise InvalidValue("host", self.host, "beyond this device every caller needs a token: give --token-file")

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a Host header may have, in lower case and without a port."""
        return frozenset(name.lower() for name in (*LOOPBACK_NAMES, self.host, *self.names))

    def is_public(self, text: str) -> bool:
        """Whether a text may leave in the clear."""
        return bool(self.public) and hashlib.sha256(text.encode()).hexdigest() in self.public


def read_token(file: Path) -> str:
    """The token in a file, without blanks around it. Raises InvalidValue for a file that can't be read or is empty."""
    token = _read("token_file", file).strip()
    if not token or any(character.isspace() for character in token):
        raise InvalidValue("token_file", str(file), "write one token into it, without blanks")
    return token


def read_digests(file: Path) -> frozenset[str]:
    """The digests in a file: SHA-256 in hex, one a line, as sha256sum writes them; # begins a remark."""
    lines = (line.split("#")[0].split() for line in _read("public_texts", file).splitlines())
    return frozenset(_digests(file, (words[0] for words in lines if words)))


def _digests(file: Path, words: Iterable[str]) -> Sequence[str]:
    found = [word.lower() for word in words]
    for word in found:
        if not _DIGEST.fullmatch(word):
            raise InvalidValue(f"public_texts in {file}", word, "write the 64 hex digits of a text's SHA-256")
    return found


def _read(field_name: str, file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidValue(field_name, str(file), f"it has over {MAX_FILE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise InvalidValue(field_name, str(file), f"it can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidValue(field_name, str(file), "it is not UTF-8") from None
