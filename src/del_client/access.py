"""Access: how a server is reached, by TLS or not, and by what a device shows who it is. Knows nothing of gRPC."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from del_codec.address import is_ip, is_loopback, split_address
from del_codec.errors import InvalidValue

TOKEN_VARIABLE = "DEL_SERVER_TOKEN"
MAX_FILE_BYTES = 1 << 20
_MAX_TOKEN = 512
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True)
class Access:
    """The way to a server. Other machines are reached by TLS, this one by plain text unless a file of TLS is named.

    tls_ca: PEM file of the authorities that the server's certificate must come from; None: the usual public ones.
    tls_cert, tls_key: the device's own certificate and key, for a server that asks. tls_name: the name that the
    server's certificate must have, where it is not the one that is dialled. insecure: PLAIN TEXT to another machine.
    token: shown to the server, over TLS or within this machine alone; not in the repr.
    """

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str | None = None
    insecure: bool = False
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls-key" if self.tls_key is None else "tls-cert"
            raise InvalidValue(missing, None, "give --tls-cert and --tls-key together, or neither")
        if self.insecure and self._asks_for_tls:
            raise InvalidValue("insecure", True, "leave it out, or the options of TLS")
        if self.token is not None and not (_TOKEN.fullmatch(self.token) and len(self.token) <= _MAX_TOKEN):
            raise InvalidValue("token", "not shown", "a token is one word as `del-server token new` prints it")

    @property
    def _asks_for_tls(self) -> bool:
        return any(value is not None for value in (self.tls_ca, self.tls_cert, self.tls_name))

    def uses_tls(self, server: str) -> bool:
        """Whether a server is reached by TLS. Raises InvalidValue for addresses or a token that can't be used so."""
        hosts = [host for host, _ in read_servers(server)]
        here = all(map(is_loopback, hosts))
        if self.token is not None and self.insecure and not here:
            raise InvalidValue("insecure", True, f"leave it out: the token would go to {server} for everyone to read")
        if self._asks_for_tls and len(hosts) > 1 and self.tls_name is None:
            raise InvalidValue("tls-name", None, "with several servers, give the name that their certificates have")
        return self._asks_for_tls or not (here or self.insecure)


def read_servers(server: str) -> list[tuple[str, int]]:
    """Hosts and ports of "HOST:PORT", or of several by their numbers with commas between. Raises InvalidValue."""
    found = [split_address(address) for address in server.split(",")]
    if len(found) > 1 and not all(is_ip(host) for host, _ in found):
        raise InvalidValue("server", server, "give several servers by their numbers, or one name that stands for all")
    if len({":" in host for host, _ in found}) > 1:
        raise InvalidValue("server", server, "give several servers by IPv4 or by IPv6, not mixed")
    return found


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token in a file, else in $DEL_SERVER_TOKEN; None for none. Never an argument: all users see those."""
    if file is None:
        return environment.get(TOKEN_VARIABLE, "").strip() or None
    return read_file(file, "server-token-file").decode("ascii", errors="replace").strip()


def read_file(path: Path, what: str) -> bytes:
    """A small file's bytes. Raises InvalidValue that names the setting."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidValue(what, str(path), f"it can't be read ({error.strerror})") from None
    if not 0 < len(data) <= MAX_FILE_BYTES:
        raise InvalidValue(what, str(path), f"a file of 1 to {MAX_FILE_BYTES} bytes")
    return data
