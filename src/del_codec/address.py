"""Addresses: HOST:PORT read apart, and which hosts are this machine. Knows nothing of names' resolution or of gRPC."""

from __future__ import annotations

import ipaddress
import re

from del_codec.errors import InvalidValue

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):(\d{1,5})")


def split_address(address: str, field: str = "server") -> tuple[str, int]:
    """Host, without the brackets of an IPv6 one, and port. Raises InvalidValue for an address that is none."""
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[2]) < 1 << 16:
        raise InvalidValue(field, address, "use HOST:PORT, as in 127.0.0.1:50051")
    return match[1].strip("[]"), int(match[2])


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with the brackets that an IPv6 host needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(host: str) -> bool:
    """Whether a host is given by number, not by name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this machine: localhost, 127.0.0.0/8 or ::1, and no other name."""
    return host.lower() == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)
