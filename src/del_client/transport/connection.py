"""Channels to a server: its address checked, and gRPC's knobs for a bad network. Part of the transport."""

from __future__ import annotations

import re

import grpc.aio

from del_codec.errors import InvalidValue

MAX_RECEIVED_BYTES = 4 << 20
# Of gRPC's own attempts to connect; retrying.py decides how often there are any.
_FIRST_BACKOFF_MS, _LONGEST_BACKOFF_MS = 200, 2_000
# The answer to a probe may stand in line behind what is on its way, longer than TCP's acknowledgement does.
_ANSWER_FACTOR = 3
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


def open_channel(server: str, connect_seconds: float, keepalive_seconds: float | None) -> grpc.aio.Channel:
    """A channel to "host:port" with a connection of its own. Raises InvalidValue for an address that is none.

    keepalive_seconds: a connection that was silent for so long during a call is probed; it is given up if for as long
    again nothing is acknowledged, or for three times as long nothing answers. None: it is never probed, since a probe's
    answer would stand in line behind a download for as long as that takes.
    """
    match = _ADDRESS.fullmatch(server)
    if not match or not 0 < int(match[2]) < 1 << 16:
        raise InvalidValue("server", server, "use HOST:PORT, as in 127.0.0.1:50051")
    options = [
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
    if match[1] in ("localhost", "[::1]") or match[1].startswith("127."):
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.aio.insecure_channel(server, options=options)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
