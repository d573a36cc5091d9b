"""docs/operations.md has what the alerts point to, and names files and tests that are there."""

from __future__ import annotations

import re

import yaml
from rendered import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()


def sections() -> dict[str, str]:
    """The runbook's sections by alert."""
    runbook = TEXT.split("\n## Runbook\n")[1].split("\n## ")[0]
    return dict(re.findall(r"### (\w+)\n(.*?)(?=\n### |\Z)", runbook, re.DOTALL))


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/del.rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(sections()) == alerts
    assert all(len(text.split()) > 40 for text in sections().values())


def test_metrics_of_the_document_are_metrics() -> None:
    known = set(re.findall(r"`((?:del|grpc)_\w+)`", (ROOT / "docs/metrics.md").read_text()))
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bdel_server_\w+", TEXT)}
    assert named
    assert named <= known


def test_files_of_the_document_are_there() -> None:
    paths = re.findall(r"\b(?:deploy|tests|docs)/[\w./*@-]*\w", TEXT)
    assert paths
    for path in paths:
        assert list(ROOT.glob(path)), path
    for link in re.findall(r"\]\(([\w-]+\.md)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
