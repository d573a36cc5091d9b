"""Who calls: what a call shows of its maker, and the identity that follows from it. Knows nothing of gRPC."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from del_codec.errors import AccessDenied
from del_server.access.tokens import DEFAULT_QUOTA, Tokens
from del_server.access.watched import Watched

HERE = "this machine"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a call shows. host: where it comes from, "" for this machine; subject: of a certificate that TLS checked."""

    host: str
    encrypted: bool
    subject: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity. name: the token's, else the certificate's subject, else the household's; token_id: "" without a
    token."""

    name: str
    quota: str = DEFAULT_QUOTA
    token_id: str = ""


class Door:
    """Turns what a call shows into its caller. tokens: what callers must show; None: nothing."""

    def __init__(self, tokens: Watched[Tokens] | None) -> None:
        self._tokens = tokens

    def admit(self, shown: Shown) -> Caller:
        """The caller. Raises AccessDenied for one without a token that is valid now, or who showed it to all."""
        if self._tokens is None:
            return Caller(shown.subject or household(shown.host) or HERE)
        if shown.host and not shown.encrypted:
            raise AccessDenied("a token in plain text from another machine is a secret no longer: use TLS, and another")
        token = self._tokens.get().check(shown.token)
        return Caller(token.name, token.quota, token.id)

    def check(self, caller: Caller) -> None:
        """Raise AccessDenied if a caller who was admitted before would not be now."""
        if self._tokens is not None:
            self._tokens.get().check_id(caller.token_id)


def household(host: str) -> str:
    """The host; of IPv6 its network of 64 bits, all of whose addresses one machine may take in turn."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return host if number.version == 4 else str(ipaddress.ip_network((number, 64), strict=False))
