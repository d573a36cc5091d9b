"""Channels to a server: by TLS or not, to one or several, and gRPC's knobs for a bad network. Part of the transport."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import grpc.aio

from del_client.access import Access, read_file, read_servers
from del_client.query import Metadata
from del_codec.address import is_ip, is_loopback, join_address
from del_codec.protocol import METADATA_KEY, NEWEST

MAX_RECEIVED_BYTES = 4 << 20
# Of gRPC's own attempts to connect; retrying.py decides how often there are any.
_FIRST_BACKOFF_MS, _LONGEST_BACKOFF_MS = 200, 2_000
# The answer to a probe may stand in line behind what is on its way, longer than TCP's acknowledgement does.
_ANSWER_FACTOR = 3
# Of what costs nothing to ask twice; queries and scores are sent again by retrying.py, which counts and tells of it.
_AGAIN = {
    "name": [
        {"service": "del_codec.v1.InferenceService", "method": "GetServerInfo"},
        {"service": "del_codec.v1.InferenceService", "method": "DownloadCodec"},
    ],
    "retryPolicy": {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}
# A name may stand for several servers, of which each new stream takes the next.
_BALANCED: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}


def open_channel(
    server: str, connect_seconds: float, keepalive_seconds: float | None, access: Access
) -> grpc.aio.Channel:
    """A channel to "host:port", or to several of them, with connections of its own.

    Raises InvalidValue for an address that is none, or files that can't be used.

    keepalive_seconds: a connection that was silent for so long during a call is probed; it is given up if for as long
    again nothing is acknowledged, or for three times as long nothing answers. None: it is never probed, since a probe's
    answer would stand in line behind a download for as long as that takes.
    """
    tls, servers = access.uses_tls(server), read_servers(server)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        # Its probes for bandwidth cost more bytes than the framing of a prompt, and answers need no large window.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_BACKOFF_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
        ("grpc.min_reconnect_backoff_ms", _milliseconds(connect_seconds)),  # how long an attempt may take, in fact
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if keepalive_seconds is not None:
        options += [
            ("grpc.keepalive_time_ms", _milliseconds(keepalive_seconds)),
            ("grpc.keepalive_timeout_ms", _milliseconds(keepalive_seconds)),  # TCP_USER_TIMEOUT, too
            ("grpc.http2.ping_timeout_ms", _milliseconds(keepalive_seconds * _ANSWER_FACTOR)),
            ("grpc.http2.max_pings_without_data", 0),  # no bound: an answer may be long in coming
        ]
    if all(is_loopback(host) for host, _ in servers):
        options.append(("grpc.enable_http_proxy", 0))
    several = len(servers) > 1 or not (is_ip(servers[0][0]) or is_loopback(servers[0][0]))
    options.append(("grpc.service_config", json.dumps({"methodConfig": [_AGAIN], **(_BALANCED if several else {})})))
    if access.tls_name is not None:
        options += [("grpc.ssl_target_name_override", access.tls_name), ("grpc.default_authority", access.tls_name)]
    if tls:
        return grpc.aio.secure_channel(_target(servers), _credentials(access), options=options)
    return grpc.aio.insecure_channel(_target(servers), options=options)


def call_metadata(access: Access) -> Metadata:
    """What each call to a server says of who makes it."""
    version = (METADATA_KEY, str(NEWEST))
    return (version,) if access.token is None else (version, ("authorization", f"Bearer {access.token}"))


def _target(servers: list[tuple[str, int]]) -> str:
    """As gRPC names one server, or several of one family."""
    addresses = ",".join(join_address(host, port) for host, port in servers)
    if len(servers) == 1:
        return addresses
    return ("ipv6:" if ":" in servers[0][0] else "ipv4:") + addresses


def _credentials(access: Access) -> grpc.ChannelCredentials:
    def read(path: Path | None, what: str) -> bytes | None:
        return None if path is None else read_file(path, what)

    return grpc.ssl_channel_credentials(
        read(access.tls_ca, "tls-ca"), read(access.tls_key, "tls-key"), read(access.tls_cert, "tls-cert")
    )


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
