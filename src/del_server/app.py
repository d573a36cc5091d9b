"""The serving process: loads model and codecs, starts engine, gRPC and metrics, and stops them in order.

The one place where the parts meet. Nothing is served before a warm-up step has succeeded.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from del_codec.address import join_address
from del_codec.errors import EngineError, InvalidValue, MismatchError
from del_codec.shipped import codec_folders
from del_codec.v1 import inference_pb2, inference_pb2_grpc
from del_server.access.tls import TlsFiles
from del_server.backend import Admission, Backend
from del_server.codec import ServedCodec
from del_server.config import Limits, ServeConfig
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Engine
from del_server.engine.capacity import EngineConfig
from del_server.engines import HOSTS, Host
from del_server.metrics import Bounds, CallMetrics, Facts, Gauges, Metrics
from del_server.metrics.gpu import GpuMemory
from del_server.models import load_tokenizer
from del_server.service import InferenceService
from del_server.service.call_counting import CallCounting, methods_of

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
SERVICE = SERVICES[0].full_name
STREAMS = 1024
WAITING_PER_SLOT = 8
DECODERS = 2
HEALTH_SECONDS = 1.0
LEAST_PING_SECONDS = 5.0
PROBE_SECONDS, ANSWER_SECONDS = 30.0, 900.0


def serve(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `announce` gets one line when ready.

    Raises DelError if something that was asked for can't be had, EngineError if the engine can't start or died.
    """
    asyncio.run(_serve(load(config), config, announce))


def load(config: ServeConfig) -> Backend:
    """Model, codecs and tokenizer in memory; the engine not yet started."""
    host = HOSTS[config.engine](config)
    codecs = load_codecs(config, host)
    waiting = WAITING_PER_SLOT * config.max_concurrent
    engine = host.engine(
        EngineConfig(config.context_tokens, running=config.max_concurrent, waiting=waiting, kv_tokens=config.kv_tokens)
    )
    soft_tokens = max((codec.longest_soft_tokens for codec in codecs), default=0)
    version = importlib.metadata.version("del-inference")
    metrics = Metrics(Facts(version, config.model, engine.name, [codec.fingerprint for codec in codecs]))
    return Backend(
        version=version,
        model=config.model,
        engine=engine,
        codecs=codecs,
        embed_tokens=TokenEmbedder(host.model),
        tokenizer=load_tokenizer(config.model),
        limits=Limits.derive(engine.capacity.context_tokens, soft_tokens),
        metrics=metrics,
        admission=Admission(config.max_concurrent + waiting),
        executor=ThreadPoolExecutor(DECODERS, thread_name_prefix="decode"),
    )


def load_codecs(config: ServeConfig, host: Host) -> tuple[ServedCodec, ...]:
    """The codecs that were asked for, else the shipped ones that were made for the model (maybe none).

    Raises ArtifactError for a damaged codec, MismatchError for one of another model that was asked for.
    """
    if config.codecs:
        return tuple(ServedCodec.load(folder, host.model, host.load_adapter) for folder in config.codecs)
    found = []
    for folder in codec_folders():
        try:
            found.append(ServedCodec.load(folder, host.model, host.load_adapter))
        except MismatchError:
            continue
    return tuple(found)


async def _serve(backend: Backend, config: ServeConfig, announce: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with running(backend, config) as port:
        live = ", ".join(codec.fingerprint[:12] for codec in backend.codecs) or "none: public prompts only"
        announce(f"del-server ready on {join_address(config.host, port)} (model {config.model}, codec {live})")
        await _stopped_or_dead(stopping, backend.engine)


async def _stopped_or_dead(stopping: asyncio.Event, engine: Engine) -> None:
    """Raises EngineError if the engine died for good: whoever started the process may start it again."""
    while not stopping.is_set():
        health = engine.health()
        if health.fatal:
            raise EngineError(f"the engine died: {health.detail}; start the server again")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), HEALTH_SECONDS)


@asynccontextmanager
async def running(backend: Backend, config: ServeConfig) -> AsyncIterator[int]:
    """Serve while the context is open, on the port that it gives; closing it drains and stops everything."""
    async with AsyncExitStack() as stack:
        stack.callback(backend.executor.shutdown, wait=False, cancel_futures=True)
        stack.push_async_callback(backend.engine.stop)
        await backend.engine.start()
        stack.callback(_listen_metrics(backend, config))
        service, healthy = InferenceService(backend), health.aio.HealthServicer()  # type: ignore[attr-defined]
        calls = CallMetrics(backend.metrics.registry, methods_of(SERVICES))
        server, port = build_server(service, healthy, config, backend.limits, [CallCounting(calls)])
        await _tell_health(backend, healthy)
        await server.start()
        stack.push_async_callback(server.stop, config.drain_seconds)
        stack.callback(service.drain)
        stack.push_async_callback(healthy.enter_graceful_shutdown)
        watcher = asyncio.create_task(_keep_telling_health(backend, healthy))
        stack.callback(watcher.cancel)
        yield port


def build_server(
    service: InferenceService,
    healthy: Any,
    config: ServeConfig,
    limits: Limits,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]],
) -> tuple[grpc.aio.Server, int]:
    """A server that listens, and its port. Raises what listen does."""
    options = [
        # A message of up to twice the limit gets a QueryError of its own; beyond that gRPC ends the stream.
        ("grpc.max_receive_message_length", 2 * limits.message_bytes),
        ("grpc.so_reuseport", 0),
        # A device on a bad network probes its connection; without leave gRPC would call that abuse and hang up.
        ("grpc.http2.min_ping_interval_without_data_ms", int(LEAST_PING_SECONDS * 1000)),
        # And a device that vanished holds its place in the engine no longer than this.
        ("grpc.keepalive_time_ms", int(PROBE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(PROBE_SECONDS * 1000)),
        # The answer may stand in line behind a codec that goes over a narrow line.
        ("grpc.http2.ping_timeout_ms", int(ANSWER_SECONDS * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    server = grpc.aio.server(interceptors=interceptors, options=options, maximum_concurrent_rpcs=STREAMS)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    return server, listen(server, config)


def listen(server: grpc.aio.Server, config: ServeConfig) -> int:
    """Have a server listen, over TLS where there is a certificate; its port.

    Raises InvalidValue if the port can't be had, ArtifactError for certificates that can't be used.
    """
    address = join_address(config.host, config.port)
    credentials = None
    if config.tls_cert and config.tls_key:
        credentials = TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca).credentials()
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise InvalidValue("port", config.port, f"use a free port on {config.host}, or 0 to have one picked")
    return port


def _listen_metrics(backend: Backend, config: ServeConfig) -> Callable[[], None]:
    engine, admission = backend.engine, backend.admission
    capacity = engine.capacity
    gauges = Gauges(
        running=lambda: engine.load().running,
        waiting=lambda: max(0, admission.taken - engine.load().running),
        kv_tokens=lambda: engine.load().kv_tokens,
        healthy=lambda: float(engine.health().ok),
    )
    waiting = admission.places - capacity.running
    backend.metrics.watch(gauges, Bounds(capacity.running, waiting, capacity.kv_tokens, capacity.kv_token_bytes))
    backend.metrics.registry.register(GpuMemory())
    return backend.metrics.listen(config.host, config.metrics_port) if config.metrics_port else lambda: None


async def _keep_telling_health(backend: Backend, healthy: Any) -> None:
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await _tell_health(backend, healthy)


async def _tell_health(backend: Backend, healthy: Any) -> None:
    """Tell gRPC's health service what the engine says of itself."""
    ok = backend.engine.health().ok
    status = health_pb2.HealthCheckResponse.SERVING if ok else health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", SERVICE):
        await healthy.set(service, status)
