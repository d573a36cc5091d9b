"""grpc_server_*: the metrics that every gRPC server has, under the names and labels that dashboards expect.

Names, labels and values are those of go-grpc-middleware. Only methods that are known beforehand are counted, so that no
caller can make a label. Knows nothing of gRPC's types: the service tells it what happens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from del_codec.meters import Meters

# In the order of their numbers, 0 to 16.
CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
_LABELS = ("grpc_type", "grpc_service", "grpc_method")


@dataclass(frozen=True, slots=True)
class Method:
    """kind: unary, client_stream, server_stream or bidi_stream; service: its full name."""

    kind: str
    service: str
    name: str


@dataclass(frozen=True, slots=True)
class CallMeter:
    """The members of one method. handled: by code, in the order of the codes' numbers."""

    started: Counter
    received: Counter
    sent: Counter
    seconds: Histogram
    handled: tuple[Counter, ...]


class CallMetrics:
    """The metrics of all methods, in the registry of the others."""

    def __init__(self, registry: CollectorRegistry, methods: Iterable[Method]) -> None:
        known = [(method.kind, method.service, method.name) for method in methods]
        meters = Meters("grpc_server", registry)
        started = meters.counter_grid("started", "Calls that began.", _LABELS, known)
        received = meters.counter_grid("msg_received", "Messages received.", _LABELS, known)
        sent = meters.counter_grid("msg_sent", "Messages sent.", _LABELS, known)
        seconds = meters.histogram_grid("handling_seconds", "From a call's begin to its end.", _LABELS, known)
        ended = [(*labels, code) for labels in known for code in CODES]
        handled = meters.counter_grid("handled", "Calls that ended, by code.", (*_LABELS, "grpc_code"), ended)
        self._meters = {
            f"/{service}/{name}": CallMeter(
                started[kind, service, name],
                received[kind, service, name],
                sent[kind, service, name],
                seconds[kind, service, name],
                tuple(handled[kind, service, name, code] for code in CODES),
            )
            for kind, service, name in known
        }

    def meter(self, path: str) -> CallMeter | None:
        """That of "/service/method"; None for a method that isn't counted."""
        return self._meters.get(path)
