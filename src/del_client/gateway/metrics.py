"""The gateway's own Prometheus metrics, beside those of its client's answers. No label is anybody's words."""

from __future__ import annotations

import itertools

from prometheus_client import generate_latest

from del_client.metrics import DeviceMetrics
from del_codec.meters import Meters

KINDS = ("chat", "text")
STATUSES = ("200", "400", "403", "404", "408", "413", "415", "429", "499", "500", "502", "503", "504")


class GatewayMetrics:
    """Counted since the gateway was started. device: to be a client's `watch`. running: answers at this moment."""

    def __init__(self) -> None:
        meters = Meters("del_gateway")
        self.registry = meters.registry
        self.device = DeviceMetrics(meters.registry)
        self.running = 0
        self._requests = meters.counter_grid(
            "requests",
            "Requests for answers, by kind and HTTP status; 499: the caller left before there was any.",
            ("kind", "status"),
            itertools.product(KINDS, STATUSES),
        )
        self.left = meters.counter("left", "Requests whose caller left, or was let go for reading too slowly.")
        self.broken = meters.counter("broken_streams", "Streams that ended in an error.")
        self.charged = meters.counter("charged_tokens", "Private tokens whose bits were drawn, and charged.")
        meters.gauge("answers", "Answers that are running.", lambda: self.running)

    def answered(self, kind: str, status: int) -> None:
        """Count a request for answers."""
        self._requests[kind, str(status)].inc()

    def text(self) -> bytes:
        """All of them, in Prometheus's format."""
        return generate_latest(self.registry)
