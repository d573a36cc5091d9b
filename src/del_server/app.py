"""The serving process: loads model and codecs, starts engine, gRPC and metrics, and stops them in order.

The one place where the parts meet. Nothing is served before a warm-up step has succeeded.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from del_codec.address import join_address
from del_codec.errors import EngineError, InvalidValue, MismatchError
from del_codec.shipped import codec_folders
from del_server.access.caller import Door
from del_server.access.metering import Room
from del_server.access.quotas import Quotas
from del_server.access.tokens import Tokens
from del_server.access.visit import Gatehouse
from del_server.access.watched import Watched
from del_server.admission import Admission
from del_server.backend import Backend
from del_server.codec import ServedCodec
from del_server.config import Limits, ServeConfig
from del_server.decoder import share_no_threads
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Engine
from del_server.engine.capacity import EngineConfig
from del_server.engines import HOSTS, Host
from del_server.metrics import Bounds, CallMetrics, Facts, Gauges, Metrics
from del_server.metrics.gpu import GpuMemory
from del_server.metrics.nvml import Driver
from del_server.models import load_tokenizer
from del_server.service import InferenceService, health
from del_server.service.call_counting import CallCounting, methods_of
from del_server.service.call_tracing import CallTracing
from del_server.service.guard import Guard
from del_server.service.listening import HEALTH, SERVICE, SERVICES, build_server
from del_server.service.one_message import OneMessage
from del_server.service.tls import TlsFiles
from del_server.tracing import Tracing

WAITING_PER_SLOT = 8
DECODERS = 2
LEAST_ROOM = 1 << 28


def serve(config: ServeConfig, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `announce` gets one line when ready.

    Raises DelError if something that was asked for can't be had, EngineError if the engine can't start or died.
    """
    backend = load(config)
    leave_alone()
    asyncio.run(_serve(backend, config, announce))


def leave_alone() -> None:
    """Keep what is in memory now out of garbage collections: a full one stopped every answer to look through it."""
    gc.collect()
    gc.freeze()


def load(config: ServeConfig) -> Backend:
    """Model, codecs and tokenizer in memory; the engine not yet started."""
    tracing = tracing_of(config)
    host = HOSTS[config.engine](config)
    codecs = load_codecs(config, host)
    waiting = WAITING_PER_SLOT * config.max_concurrent
    engine = host.engine(
        EngineConfig(
            config.context_tokens,
            running=config.max_concurrent,
            waiting=waiting,
            kv_tokens=config.kv_tokens,
            kv_bytes=config.kv_bytes,
            compile_steps=config.compile,
        )
    )
    dim = max((codec.table.spec.dim for codec in codecs), default=1)
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
        limits=Limits.derive(engine.capacity.context_tokens, soft_tokens, dim),
        metrics=metrics,
        # So many more than the engine steps that the next prompts are decoded when it has room for them.
        admission=Admission(engine.capacity.running + DECODERS, engine.capacity.waiting - DECODERS),
        executor=ThreadPoolExecutor(DECODERS, thread_name_prefix="decode", initializer=share_no_threads),
        tracing=tracing,
    )


def tracing_of(config: ServeConfig) -> Tracing:
    """Who is told of calls and queries. Raises InvalidValue where OpenTelemetry is asked for and not installed."""
    if not config.tracing:
        return Tracing()
    try:
        from del_server.opentelemetry_tracing import OpenTelemetryTracing
    except ModuleNotFoundError as error:
        raise InvalidValue("tracing", True, f"{error.name} is missing: pip install 'del-inference[tracing]'") from None
    return OpenTelemetryTracing.from_environment()


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
        found = engine.health()
        if found.fatal:
            raise EngineError(f"the engine died: {found.detail}; start the server again")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), health.SECONDS)


@asynccontextmanager
async def running(backend: Backend, config: ServeConfig) -> AsyncIterator[int]:
    """Serve while the context is open, on the port that it gives; closing it drains and stops everything."""
    gates, tls = gatehouse(config, backend), tls_of(config)
    # A look at a prompt is one small operation: every call would wait until torch's other threads had their part of it.
    share_no_threads()
    async with AsyncExitStack() as stack:
        stack.callback(backend.executor.shutdown, wait=False, cancel_futures=True)
        stack.push_async_callback(backend.engine.stop)
        await backend.engine.start()
        stack.callback(_listen_metrics(backend, config, tls))
        service = InferenceService(backend, config.connection_age)
        report = health.HealthReport(lambda: backend.engine.health().ok, SERVICE)
        calls = CallMetrics(backend.metrics.registry, methods_of(SERVICES))
        stack.callback(backend.tracing.close)
        guard = Guard(gates, backend.metrics, open_to_all=(f"/{HEALTH}/",))
        # Behind the guard, so that nobody else has spans made.
        tracing = [CallTracing(backend.tracing, SERVICE)] if config.tracing else []
        interceptors = [CallCounting(calls), guard, *tracing, OneMessage()]
        server, port = build_server(service, report.servicer, config, backend.limits, interceptors, tls)
        await report.tell()
        await server.start()
        stack.push_async_callback(server.stop, config.drain_seconds)
        stack.callback(service.drain)
        stack.push_async_callback(report.leave)
        watcher = asyncio.create_task(report.keep_telling())
        stack.callback(watcher.cancel)
        yield port


def gatehouse(config: ServeConfig, backend: Backend) -> Gatehouse:
    """What lets calls in. Raises DelError for a file of tokens or quotas that can't be used here."""
    quotas = Quotas.load(config.quotas)
    quotas.check(backend.limits, max((len(codec.device_bytes) for codec in backend.codecs), default=0))
    tokens = Watched([config.tokens], Tokens.read) if config.tokens else None
    if tokens is not None:
        quotas.check_named(token.quota for token in tokens.get().all)
    most = max(LEAST_ROOM, 2 * backend.admission.places * backend.limits.message_bytes)
    return Gatehouse(Door(tokens), quotas, Room(most))


def tls_of(config: ServeConfig) -> TlsFiles | None:
    """The certificates to show; None for plain text. Raises ArtifactError for files that can't be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca)


def _listen_metrics(backend: Backend, config: ServeConfig, tls: TlsFiles | None) -> Callable[[], None]:
    engine, admission = backend.engine, backend.admission
    capacity = engine.capacity
    gauges = Gauges(
        running=lambda: engine.load().running,
        waiting=lambda: max(0, admission.taken - engine.load().running),
        kv_tokens=lambda: engine.load().kv_tokens,
        kv_bytes=lambda: engine.load().kv_bytes,
        healthy=lambda: float(engine.health().ok),
        replicas=lambda: engine.health().answering,
        certificate_expires=tls.expires if tls else lambda: 0.0,
    )
    bounds = Bounds(
        running=capacity.running,
        waiting=admission.places - capacity.running,
        kv_tokens=capacity.kv_tokens,
        kv_token_bytes=capacity.kv_token_bytes,
        kv_bytes=capacity.kv_bytes,
        replicas=capacity.replicas,
    )
    backend.metrics.watch(gauges, bounds)
    backend.metrics.registry.register(GpuMemory(Driver.load() if config.device != "cpu" else None))
    host = config.metrics_host or config.host
    return backend.metrics.listen(host, config.metrics_port) if config.metrics_port else lambda: None
