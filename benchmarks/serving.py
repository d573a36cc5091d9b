"""Targets of the server: how soon it is ready when its weights were converted before, and how it does under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from benchmarks import batching, layers
from benchmarks.server_process import running_server
from benchmarks.target import Target


def ready_seconds() -> float:
    """From the start of `del-server serve` to its ready line, the second time."""
    for _ in range(2):
        start = time.monotonic()
        with running_server():
            seconds = time.monotonic() - start
    return seconds


def under_load(measure: Callable[[batching.Bench], Coroutine[None, None, float]]) -> float:
    """One of benchmarks.batching's figures, with a server of its own."""
    with running_server() as server:
        return asyncio.run(measure(batching.Bench(server.address)))


TARGETS = [
    Target("serving.ready_second_start_s", 10, "at most", ready_seconds),
    Target("serving.16_streams_over_generate", 0.9, "at least", lambda: under_load(batching.served_over_offline)),
    Target("serving.16_staggered_over_1", 5, "at least", lambda: under_load(batching.staggered_over_sequential)),
    Target("serving.first_token_over_engine", 1.15, "at most", lambda: under_load(batching.first_token_over_bare)),
    Target("serving.events_over_bare_grpc", 0.5, "at least", lambda: layers.carried_over_bare(layers.public_query())),
    Target(
        "serving.messages_over_bare_grpc", 0.5, "at least", lambda: layers.carried_over_bare(layers.message_query())
    ),
    Target(
        "serving.events_with_decoder_over_bare_grpc",
        0.5,
        "at least",
        lambda: layers.carried_over_bare(layers.private_query()),
    ),
    Target("serving.first_token_soft_prompt_share", 0.05, "at most", lambda: under_load(batching.soft_prompt_share)),
]
