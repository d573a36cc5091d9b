"""What an operator sees: Prometheus metrics of one server, in a registry of their own.

Labels are bounded: never a user, a query or a text. Knows nothing of gRPC or engines; they are read through callbacks.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from del_codec.errors import InvalidValue

# 1 ms to 10 min.
SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
DIRECTIONS = ("received", "sent")
TOKEN_KINDS = ("private", "public", "generated", "candidate")
OUTCOMES = ("stop", "length", "scored", "cancelled", "refused", "failed", "abandoned")
PHASES = ("queue", "decode", "prefill", "generate")


class Metrics:
    """The metrics of one server. Every label is there from the start, at zero."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.payload_bytes = self._counter(
            "payload_bytes", "Packed latents received, UTF-8 text of answers sent.", "direction", DIRECTIONS
        )
        self.wire_bytes = self._counter(
            "wire_bytes", "Serialised messages of queries, each with gRPC's five-byte prefix.", "direction", DIRECTIONS
        )
        self.tokens = self._counter(
            "tokens",
            "Tokens of prompts in the engine, of answers and of scored candidates.",
            "kind",
            TOKEN_KINDS,
        )
        self.queries = self._counter("queries", "Queries that ended, by outcome.", "outcome", OUTCOMES)
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From the end of a prompt to the first token of its answer."
        )
        self.inter_token = self._histogram("inter_token_seconds", "Between two tokens of one answer.")
        self.phase = self._histogram("phase_seconds", "Phases of a query that was answered.", "phase", PHASES)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float], healthy: Callable[[], float]) -> None:
        """Read these at every scrape: queries in the engine, queries waiting for it, 1 for a healthy engine."""
        for name, help_text, read in (
            ("queries_running", "Queries that the engine steps.", running),
            ("queries_waiting", "Queries whose prompt is complete and that wait for the engine.", waiting),
            ("engine_healthy", "1 if the latest step of the model succeeded, and lately.", healthy),
        ):
            Gauge(f"del_server_{name}", help_text, registry=self.registry).set_function(read)

    def describe(self, version: str, model: str, engine: str) -> None:
        """What is running."""
        info = Info("del_server_build", "The server, its model and its engine.", registry=self.registry)
        info.info({"version": version, "model": model, "engine": engine})

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Serve the metrics over HTTP; returns what stops it. Raises InvalidValue if the port can't be had."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise InvalidValue("metrics-port", port, f"use a free port on {host} ({error.strerror})") from None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def _counter(self, name: str, help_text: str, label: str, values: tuple[str, ...]) -> Counter:
        counter = Counter(f"del_server_{name}", help_text, [label], registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def _histogram(self, name: str, help_text: str, label: str = "", values: tuple[str, ...] = ()) -> Histogram:
        labels = [label] if label else []
        histogram = Histogram(f"del_server_{name}", help_text, labels, buckets=SECONDS, registry=self.registry)
        for value in values:
            histogram.labels(value)
        return histogram
