"""Meters: Prometheus metrics whose label values are all known beforehand, for both sides.

A family with labels is a mapping from label values to its members, made whole at the start: what is not in it can't be
counted, so that no user, query or text can ever become a label. Needs prometheus-client, which a device's base install
lacks. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

# 1 ms to 10 min.
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
# 12 is the weakest noise that a device chooses without being told to.
MU = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 40.0, 60.0, 100.0)
EPSILON = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
EPSILON_DELTA = 1e-5
TOKEN_BYTES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
EMBEDDING_BYTES = {"float16": 2, "float32": 4}
# Bits a coordinate; 0 stands for what has nothing private in it.
BITS = tuple(str(bits) for bits in range(9))

Member = TypeVar("Member", Counter, Histogram)


class Meters:
    """A registry, and the metrics in it, whose names begin with a prefix."""

    def __init__(self, prefix: str, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._prefix = prefix

    def counter(self, name: str, help_text: str) -> Counter:
        """One that only grows; "_total" is added to its name."""
        return Counter(f"{self._prefix}_{name}", help_text, registry=self.registry)

    def counters(self, name: str, help_text: str, label: str, values: Sequence[str]) -> Mapping[str, Counter]:
        """A counter for each value of a label, all of them at zero."""
        parent = Counter(f"{self._prefix}_{name}", help_text, [label], registry=self.registry)
        return {value: parent.labels(value) for value in values}

    def counter_grid(
        self, name: str, help_text: str, labels: Sequence[str], members: Iterable[tuple[str, ...]]
    ) -> Mapping[tuple[str, ...], Counter]:
        """A counter for each of these combinations of label values, all of them at zero."""
        parent = Counter(f"{self._prefix}_{name}", help_text, labels, registry=self.registry)
        return {values: parent.labels(*values) for values in members}

    def histogram(self, name: str, help_text: str, buckets: Sequence[float] = SECONDS) -> Histogram:
        """A histogram with these upper bounds."""
        return Histogram(f"{self._prefix}_{name}", help_text, buckets=buckets, registry=self.registry)

    def histograms(self, name: str, help_text: str, label: str, values: Sequence[str]) -> Mapping[str, Histogram]:
        """A histogram of seconds for each value of a label."""
        parent = Histogram(f"{self._prefix}_{name}", help_text, [label], buckets=SECONDS, registry=self.registry)
        return {value: parent.labels(value) for value in values}

    def histogram_grid(
        self, name: str, help_text: str, labels: Sequence[str], members: Iterable[tuple[str, ...]]
    ) -> Mapping[tuple[str, ...], Histogram]:
        """A histogram of seconds for each of these combinations of label values."""
        parent = Histogram(f"{self._prefix}_{name}", help_text, labels, buckets=SECONDS, registry=self.registry)
        return {values: parent.labels(*values) for values in members}

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A figure that is read at every scrape."""
        Gauge(f"{self._prefix}_{name}", help_text, registry=self.registry).set_function(read)

    def constant(self, name: str, help_text: str, value: float) -> None:
        """A figure that doesn't change while the process lives."""
        Gauge(f"{self._prefix}_{name}", help_text, registry=self.registry).set(value)

    def info(self, name: str, help_text: str, facts: Mapping[str, str]) -> None:
        """What doesn't change while the process lives; "_info" is added to its name."""
        Info(f"{self._prefix}_{name}", help_text, registry=self.registry).info(dict(facts))
