"""The gateway's own Prometheus metrics; every label has few values, and none of them is anybody's words."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GatewayMetrics:
    """Counted since the gateway was started."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "del_gateway_requests", "Requests for answers, by kind and HTTP status", ["kind", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.left = Counter("del_gateway_left", "Requests whose caller left, or was let go for reading too slowly", registry=self.registry)
        self.broken = Counter("del_gateway_broken", "Streams that ended in an error", registry=self.registry)
        self.answers = Gauge("del_gateway_answers", "Answers that are running", registry=self.registry)
        self.tokens = Counter("del_gateway_tokens", "Tokens of answers", registry=self.registry)
        self.charged = Counter("del_gateway_charged_tokens", "Private tokens that were charged", registry=self.registry)
        self.first_token = Histogram(
            "del_gateway_first_token_seconds", "From the bits' sending to an answer's first token",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of them, in Prometheus's format."""
        return generate_latest(self.registry)
