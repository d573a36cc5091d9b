"""Write the tables of docs/metrics.md from the code; with --check, fail if what is there is not what the code gives."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from del_client.gateway.metrics import GatewayMetrics
from del_client.metrics import DeviceMetrics
from del_server.app import SERVICES
from del_server.metrics import Bounds, CallMetrics, Facts, Gauges, Metrics
from del_server.metrics.gpu import GpuMemory
from del_server.service.call_counting import methods_of

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
MOST_VALUES = 24


def server() -> CollectorRegistry:
    """The registry of a server that was asked nothing."""
    metrics = Metrics(Facts("0", "model", "engine", ["0123456789ab"]))
    metrics.watch(Gauges(*[lambda: 0.0] * 7), Bounds(0, 0, 0, 0, 0, 0))
    CallMetrics(metrics.registry, methods_of(SERVICES))
    return metrics.registry


def families(prefix: str, registry: CollectorRegistry) -> list[Metric]:
    """Those whose names begin so, in the order of their names."""
    return sorted((one for one in registry.collect() if one.name.startswith(prefix)), key=lambda one: one.name)


def table(found: Iterable[Metric]) -> Iterator[str]:
    """A row each."""
    yield "| name | type | labels | what it is |"
    yield "|---|---|---|---|"
    for one in found:
        name = {"counter": f"{one.name}_total", "info": f"{one.name}_info"}.get(one.type, one.name)
        kind = "gauge" if one.type == "info" else one.type
        yield f"| `{name}` | {kind} | {labels(one)} | {one.documentation} |"


def labels(one: Metric) -> str:
    """The labels of a family, and their values where the code knows them; GPUs' have no samples here."""
    values: dict[str, dict[str, None]] = {}
    for sample in one.samples:
        for label, value in sample.labels.items():
            values.setdefault(label, {})[value] = None
    values.pop("le", None)
    if not one.samples:
        return "`device`"
    if one.type == "info" or one.name.endswith("private_prompts"):
        return ", ".join(f"`{label}`" for label in values)
    return "; ".join(f"`{label}`: {', '.join(list(found)[:MOST_VALUES])}" for label, found in values.items())


def buckets(found: Iterable[Metric]) -> Iterator[str]:
    """Each histogram's upper bounds, those that have the same together."""
    names: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        if one.type == "histogram":
            bounds = dict.fromkeys(s.labels["le"] for s in one.samples if s.name.endswith("_bucket"))
            names.setdefault(tuple(bounds), []).append(one.name)
    for bounds, members in names.items():
        yield f"- {', '.join(f'`{name}`' for name in members)}: {', '.join(bounds)}"


def sections() -> dict[str, str]:
    """The generated parts of the page, by their names."""
    registry = server()
    own, calls = families("del_server", registry), families("grpc_server", registry)
    device = families("del_client", DeviceMetrics().registry)
    gateway = families("del_gateway", GatewayMetrics().registry)
    return {
        "server": "\n".join(table([*own, *GpuMemory(None).describe()])),
        "grpc": "\n".join(table(calls)),
        "device": "\n".join(table(device)),
        "gateway": "\n".join(table(gateway)),
        "buckets": "\n".join(buckets([*own, *calls, *device])),
    }


def page(text: str) -> str:
    """The page with its generated parts made anew; each stands between comments that name it."""
    for name, made in sections().items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
        text, count = re.subn(f"(?s){begin}.*?{end}", lambda _, b=begin, m=made, e=end: f"{b}\n{m}\n{e}", text)
        if count != 1:
            sys.exit(f"{PAGE} must have one part between {begin} and {end}")
    return text


def main() -> None:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = PAGE.read_text()
    made = page(text)
    if not check:
        PAGE.write_text(made)
    elif made != text:
        sys.exit("docs/metrics.md is not what the code gives; run make metrics-doc")


if __name__ == "__main__":
    main()
