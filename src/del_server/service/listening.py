"""Listening: a gRPC server with its services, its interceptors, its port and what it puts up with from connections."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from del_codec.address import join_address
from del_codec.errors import InvalidValue
from del_codec.v1 import inference_pb2, inference_pb2_grpc
from del_server.config import STREAMS, Limits, ServeConfig
from del_server.service.servicer import InferenceService
from del_server.service.tls import TlsFiles

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
SERVICES: tuple[ServiceDescriptor, ...] = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
# For those who look at the server itself; their calls are not counted.
TOOLS: tuple[ServiceDescriptor, ...] = (
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    channelz_pb2.DESCRIPTOR.services_by_name["Channelz"],
)
LEAST_PING_SECONDS = 5.0
PROBE_SECONDS, ANSWER_SECONDS = 30.0, 900.0
MOST_CONNECTIONS = 1 << 16
HANDSHAKE_SECONDS, IDLE_SECONDS = 10.0, 600.0


def build_server(
    service: InferenceService,
    healthy: Any,
    config: ServeConfig,
    limits: Limits,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]],
    tls: TlsFiles | None = None,
) -> tuple[grpc.aio.Server, int]:
    """A server that listens, and its port.

    tls: None for plain text. Raises InvalidValue if the port can't be had.
    """
    options = [*_options(limits), *_ages(config)]
    server = grpc.aio.server(interceptors=interceptors, options=options, maximum_concurrent_rpcs=STREAMS)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection([SERVICE, HEALTH, REFLECTION], server)
    if config.channelz:
        channelz.add_channelz_servicer(server)  # type: ignore[arg-type]  # it takes either kind
    return server, _listen(server, config, tls)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        # A message of up to twice the limit gets a QueryError of its own; beyond that gRPC ends the stream.
        ("grpc.max_receive_message_length", 2 * limits.message_bytes),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.so_reuseport", 0),
        # A device on a bad network probes its connection; without leave gRPC would call that abuse and hang up.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(LEAST_PING_SECONDS)),
        # And a device that vanished holds its place in the engine no longer than this.
        ("grpc.keepalive_time_ms", _milliseconds(PROBE_SECONDS)),
        ("grpc.keepalive_timeout_ms", _milliseconds(PROBE_SECONDS)),
        # The answer may stand in line behind a codec that goes over a narrow line.
        ("grpc.http2.ping_timeout_ms", _milliseconds(ANSWER_SECONDS)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_allowed_incoming_connections", most_connections()),
        ("grpc.server_handshake_timeout_ms", _milliseconds(HANDSHAKE_SECONDS)),
        ("grpc.max_connection_idle_ms", _milliseconds(IDLE_SECONDS)),
    ]


def most_connections() -> int:
    """Half of the files that this process may have open: connections leave some for everything else."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if most == resource.RLIM_INFINITY else min(most // 2, MOST_CONNECTIONS)


def _ages(config: ServeConfig) -> list[tuple[str, int]]:
    """A connection takes no new stream once it is of age; its youngest one may get as old, and end its last answer."""
    if not config.connection_age:
        return []
    return [
        ("grpc.max_connection_age_ms", _milliseconds(config.connection_age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(config.connection_age + config.drain_seconds)),
    ]


def _listen(server: grpc.aio.Server, config: ServeConfig, tls: TlsFiles | None) -> int:
    address = join_address(config.host, config.port)
    try:
        port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise InvalidValue("port", config.port, f"use a free port on {config.host}, or 0 to have one picked")
    return port


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
