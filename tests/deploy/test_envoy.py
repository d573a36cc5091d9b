"""The Envoy example: read by Envoy itself, and the timeouts that a long stream needs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered import ROOT

from benchmarks.certificates import Authority
from del_server.service.listening import LEAST_PING_SECONDS

EXAMPLE = ROOT / "deploy" / "envoy" / "envoy.yaml"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    return found


def validate(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Envoy's own check, with certificates where the example looks for them."""
    for name in ("tls", "servers"):
        (folder / name).mkdir(exist_ok=True)
    authority = Authority(folder)
    (folder / "servers" / "ca.crt").write_bytes(authority.path.read_bytes())
    for path in authority.issue("tls"):
        path.rename(folder / "tls" / path.name)
    config = folder / "envoy.yaml"
    config.write_text(text.replace("/etc/envoy", str(folder)))
    command = ["envoy", "--mode", "validate", "--config-path", config]
    return subprocess.run(command, capture_output=True, text=True)


def test_envoy_reads_it(tmp_path: Path) -> None:
    found = validate(EXAMPLE.read_text(), tmp_path)
    assert found.returncode == 0, found.stderr
    assert "deprecated" not in found.stderr


def test_envoy_sees_a_misspelt_field(tmp_path: Path) -> None:
    found = validate(EXAMPLE.read_text().replace("stream_idle_timeout", "stream_idle_timeuot"), tmp_path)
    assert found.returncode != 0
    assert "stream_idle_timeuot" in found.stderr


def test_no_timeout_counts_a_streams_age(example: dict[str, Any]) -> None:
    (listener,) = example["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["request_timeout"] == "0s"
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        assert route["route"]["timeout"] == "0s"
    assert float(manager["stream_idle_timeout"].removesuffix("s")) >= 3600
    assert "max_stream_duration" not in manager["common_http_protocol_options"]


def test_its_probes_come_no_more_often_than_servers_allow(example: dict[str, Any]) -> None:
    (cluster,) = example["static_resources"]["clusters"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    keepalive = options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]
    assert float(keepalive["interval"].removesuffix("s")) > LEAST_PING_SECONDS
