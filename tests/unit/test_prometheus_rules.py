"""The rules of deploy/prometheus hold what their own tests say, and name nothing that a server doesn't have."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from del_server.app import SERVICES
from del_server.metrics import Bounds, CallMetrics, Facts, Gauges, Metrics
from del_server.metrics.gpu import GpuMemory
from del_server.service.call_counting import methods_of

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "del.rules.yml"
FILES = (RULES, *sorted((DEPLOY / "grafana").glob("*.json")))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian's prometheus has it)"
)


def registry() -> CollectorRegistry:
    metrics = Metrics(Facts("0", "model", "engine", ["0123456789ab"]))
    metrics.watch(Gauges(*[lambda: 0.0] * 7), Bounds(0, 0, 0, 0, 0, 0))
    CallMetrics(metrics.registry, methods_of(SERVICES))
    return metrics.registry


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, set[str]]]:
    """Every series' name, its labels and their values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in registry().collect():
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    for gpu in GpuMemory(None).describe():
        found[gpu.name] = {"device": {"0"}}
    return found


@needs_promtool
@pytest.mark.parametrize("check", [["check", "config", "prometheus.yml"], ["test", "rules", "del.rules.test.yml"]])
def test_promtool_is_content(check: list[str]) -> None:
    result = subprocess.run(["promtool", *check], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_named_exists(file: Path, known: dict[str, dict[str, set[str]]]) -> None:
    text = file.read_text().replace('\\"', '"')
    used = re.findall(r"(?<![:\w])((?:del|grpc)_server_\w+|process_\w+)(?:\{([^}]*)\})?", text)
    assert len(used) > 15
    for name, selector in used:
        assert name in known, name
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', selector):
            if label in ("job", "instance"):
                continue
            assert label in known[name], (name, label)
            if operator != "=~":
                assert value in known[name][label], (name, label, value)
            elif "$" not in value:
                assert all(one in known[name][label] for one in value.split("|")), (name, label, value)


def test_each_alert_says_what_to_do_and_has_a_test() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    tested = set(re.findall(r"alertname: (\w+)", (RULES.parent / "del.rules.test.yml").read_text()))
    assert set(alerts) == tested
    assert re.findall(r"runbook: docs/operations.md, (\w+)", RULES.read_text()) == alerts
