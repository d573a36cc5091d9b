"""Metrics of queries: bytes, tokens, outcomes, time, what their noise gives away, and how full the server is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import ProcessCollector, disable_created_metrics, start_http_server

from del_codec.errors import InvalidValue
from del_codec.meters import BITS, EMBEDDING_BYTES, EPSILON, EPSILON_DELTA, MU, TOKEN_BYTES, Meters
from del_server.status import REASONS, Problem

DIRECTIONS = ("received", "sent")
TOKEN_KINDS = ("private", "public", "generated", "candidate")
OUTCOMES = ("stop", "length", "scored", "cancelled", "refused", "failed", "abandoned")
PHASES = ("queue", "decode", "prefill", "generate")
OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is read at every scrape: queries, tokens and bytes of keys and values in the engine; 1 for a healthy one;
    replicas of the model that answer; when the certificate expires, in seconds since 1970."""

    running: Callable[[], float]
    waiting: Callable[[], float]
    kv_tokens: Callable[[], float]
    kv_bytes: Callable[[], float]
    healthy: Callable[[], float]
    replicas: Callable[[], float]
    certificate_expires: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of the gauges; kv_token_bytes: of one position's keys and values."""

    running: int
    waiting: int
    kv_tokens: int
    kv_token_bytes: int
    kv_bytes: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What runs. codecs: fingerprints of those that are live."""

    version: str
    model: str
    engine: str
    codecs: Sequence[str]


class Metrics:
    """The metrics of one server. Every label is there from the start, at zero."""

    def __init__(self, facts: Facts) -> None:
        self._meters = meters = Meters("del_server")
        self.registry = meters.registry
        meters.info(
            "build",
            "The server, its model and its engine.",
            {"version": facts.version, "model": facts.model, "engine": facts.engine},
        )
        self._count_bytes(meters)
        self.tokens = meters.counters(
            "tokens", "Tokens of prompts in the engine, of answers and of scored candidates.", "kind", TOKEN_KINDS
        )
        self.queries = meters.counters("queries", "Queries that ended, by outcome.", "outcome", OUTCOMES)
        self._refusals = meters.counters(
            "refusals", "What clients were told in place of an answer, by reason.", "reason", (*REASONS, OTHER)
        )
        self.private_prompts = meters.counters(
            "private_prompts",
            "Prompts with private tokens in the engine, by the first twelve digits of their codec's fingerprint.",
            "codec",
            [codec[:12] for codec in facts.codecs],
        )
        self._time(meters)
        self.mu = meters.histogram("prompt_mu", "Nominal mu of the weakest noise in a private prompt.", MU)
        self.epsilon = meters.histogram(
            "prompt_epsilon",
            f"Epsilon of all private tokens of a prompt at delta {EPSILON_DELTA:g}, rounded up by some percent.",
            EPSILON,
        )
        ProcessCollector(registry=self.registry)

    def _count_bytes(self, meters: Meters) -> None:
        grid, labels = tuple(itertools.product(DIRECTIONS, BITS)), ("direction", "bits")
        self.payload_bytes = meters.counter_grid(
            "payload_bytes",
            "Packed latents received, UTF-8 text of answers sent; bits: the most a coordinate in the prompt, 0 where "
            "nothing in it is private.",
            labels,
            grid,
        )
        self.wire_bytes = meters.counter_grid(
            "wire_bytes",
            "Serialised messages of queries, each with gRPC's five-byte prefix; bits as in payload bytes, 0 also for "
            "messages of no query.",
            labels,
            grid,
        )
        self.embedding_bytes = meters.counters(
            "embedding_bytes",
            "What the private tokens in the engine would have taken as embeddings of that type.",
            "dtype",
            tuple(EMBEDDING_BYTES),
        )
        self.token_bytes = meters.histogram(
            "prompt_token_bytes", "Bytes on the wire for each token of a prompt, private and public.", TOKEN_BYTES
        )

    def _time(self, meters: Meters) -> None:
        self.first_token = meters.histogram(
            "time_to_first_token_seconds", "From the end of a prompt to the first token of its answer."
        )
        self.output_token = meters.histogram(
            "time_per_output_token_seconds", "From one token of an answer to the next in the engine."
        )
        self.query_seconds = meters.histogram(
            "query_seconds", "End to end: from the opening of a query that was answered to its last token."
        )
        self.phases = meters.histograms(
            "phase_seconds",
            "Phases of a query that was answered: waiting for the engine, latents to embeddings, prompt, answer.",
            "phase",
            PHASES,
        )

    def watch(self, gauges: Gauges, bounds: Bounds) -> None:
        """Read these at every scrape."""
        gauge = self._meters.gauge
        gauge("queries_running", "Queries that the engine steps.", gauges.running)
        gauge("queries_waiting", "Queries whose prompt is complete and that wait for the engine.", gauges.waiting)
        gauge("kv_cache_tokens", "Tokens of keys and values that queries in the engine may take.", gauges.kv_tokens)
        gauge("kv_cache_bytes", "Memory that keys and values have; 0 where not known.", gauges.kv_bytes)
        gauge("engine_healthy", "1 if the latest step of the model succeeded, and lately.", gauges.healthy)
        gauge("replicas_answering", "Replicas of the model whose latest step succeeded, and lately.", gauges.replicas)
        gauge(
            "certificate_expires_timestamp_seconds",
            "When the certificate that is shown expires, in seconds since 1970; 0 without TLS.",
            gauges.certificate_expires,
        )
        for name, help_text, bound in (
            ("queries_running_limit", "The most queries that the engine steps at once.", bounds.running),
            ("queries_waiting_limit", "The most queries that wait for the engine.", bounds.waiting),
            ("kv_cache_tokens_limit", "The most tokens of keys and values.", bounds.kv_tokens),
            (
                "kv_cache_bytes_limit",
                "The most memory of keys and values; 0 where not known.",
                bounds.kv_bytes,
            ),
            ("replicas_limit", "Replicas of the model, answering or not.", bounds.replicas),
            ("kv_cache_token_bytes", "Bytes of one token's keys and values.", bounds.kv_token_bytes),
        ):
            self._meters.constant(name, help_text, bound)

    def refuse(self, problem: Problem) -> None:
        """Count what a client is told in place of an answer."""
        self._refusals.get(problem.reason, self._refusals[OTHER]).inc()

    def private(self, codec: str, tokens: int, embedding_width: int, mu: float) -> None:
        """Count a prompt with private tokens that reaches the engine; mu: nominal, of its weakest noise."""
        self.private_prompts[codec[:12]].inc()
        for dtype, size in EMBEDDING_BYTES.items():
            self.embedding_bytes[dtype].inc(tokens * embedding_width * size)
        self.mu.observe(mu)

    def answered(self, phases: Mapping[str, float], seconds: float) -> None:
        """Count how long a query took that was answered: each of PHASES, and end to end."""
        for phase in PHASES:
            self.phases[phase].observe(phases[phase])
        self.query_seconds.observe(seconds)

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serve the metrics over HTTP; returns what stops it. Raises InvalidValue if the port can't be had."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody asks for
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise InvalidValue("metrics-port", port, f"use a free port on {host} ({error.strerror})") from None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
