"""Targets of a server in production: what looking at it costs while it works.

The server is in this process, with the engine without a model, so that its own work is all that there is.
"""

from __future__ import annotations

import asyncio
import gzip
import statistics
import time
from typing import Any

import grpc
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from benchmarks.stub import stubbed
from benchmarks.target import Target
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub
from del_server.app import load, running
from del_server.config import ServeConfig

STREAMS = 256
STEP_SECONDS = 0.05
SCRAPES = 15
# What Prometheus asks for.
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def scrape_milliseconds() -> float:
    """CPU time of a scrape's page while STREAMS streams have an answer each under way, a token every STEP_SECONDS."""
    return 1000 * asyncio.run(_scrape_seconds())


async def _scrape_seconds() -> float:
    config = ServeConfig(port=0)
    backend = stubbed(load(config), STEP_SECONDS)
    async with running(backend, config) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = InferenceServiceStub(channel)
        calls = [stub.Generate(iter([_endless()])) for _ in range(STREAMS)]
        for call in calls:
            await call.read()
        readers = [asyncio.create_task(_drain(call)) for call in calls]
        seconds = []
        for _ in range(SCRAPES):
            seconds.append(await asyncio.to_thread(_scrape, backend.metrics.registry))
            await asyncio.sleep(STEP_SECONDS)
        if backend.engine.load().running != STREAMS:
            raise SystemExit(f"{backend.engine.load().running} of {STREAMS} streams were left at the end")
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for call in calls:
            call.cancel()
    return statistics.median(seconds)


def _endless() -> pb.GenerateRequest:
    """A wholly public query whose answer outlasts the measurement."""
    options = pb.GenerationOptions(max_new_tokens=2000, ignore_eos=True)
    segments = [pb.Segment(public=pb.PublicSegment(token_ids=[1, 60]))]
    return pb.GenerateRequest(
        query_id=1, open=pb.OpenQuery(prompt_tokens=2, options=options, segments=segments, end=True)
    )


async def _drain(call: Any) -> None:
    async for _ in call:
        pass


def _scrape(registry: CollectorRegistry) -> float:
    """Seconds of this thread's CPU for the page as Prometheus asks for it, compressed."""
    started = time.thread_time()
    encode, _ = choose_encoder(ACCEPT)
    gzip.compress(encode(registry))
    return time.thread_time() - started


TARGETS = [Target(f"operations.scrape_{STREAMS}_streams_cpu_ms", 50, "at most", scrape_milliseconds)]
