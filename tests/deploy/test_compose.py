"""The compose files: their schema, and that what they mount, run and wait for is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from rendered import ROOT, serve_config

FOLDER = ROOT / "deploy" / "compose"
FILES = ("compose.yaml", "tls.yaml")


class Loader(yaml.SafeLoader):
    """Knows compose's !override, which replaces where files are otherwise merged."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((FOLDER / name).read_text(), Loader)
    return found


@pytest.mark.parametrize("name", FILES)
def test_files_fit_the_compose_schema(name: str) -> None:
    jsonschema.validate(read(name), get_builtin_schema("vendor.compose-spec"))


def test_the_schema_sees_a_misspelt_field() -> None:
    wrong = read("compose.yaml")
    wrong["services"]["server"]["stop_grace_perod"] = "80s"
    with pytest.raises(jsonschema.ValidationError, match="stop_grace_perod"):
        jsonschema.validate(wrong, get_builtin_schema("vendor.compose-spec"))


@pytest.mark.parametrize("name", FILES)
def test_the_server_reads_its_command(name: str) -> None:
    words = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in read(name)["services"]["server"]["command"]]
    config = serve_config(words)
    assert bool(config.tls_cert) != config.insecure
    grace = read("compose.yaml")["services"]["server"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > config.drain_seconds


def test_without_tls_nothing_is_published_to_other_machines() -> None:
    for service in read("compose.yaml")["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_images_are_pinned_and_everything_mounted_is_there() -> None:
    for service in read("compose.yaml")["services"].values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        sources = [volume.split(":")[0] for volume in service["volumes"]]
        for source in sources:
            assert not source.startswith(".") or (FOLDER / source).exists()
    build = read("compose.yaml")["services"]["server"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).exists()


def test_prometheus_reads_the_rules_and_the_servers_metrics() -> None:
    services = read("compose.yaml")["services"]
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (pattern,) = config["rule_files"]
    mounts = dict(volume.split(":")[1::-1] for volume in services["prometheus"]["volumes"])
    assert list((FOLDER / mounts[str(Path(pattern).parent)]).glob(Path(pattern).name))
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert serve_config([*services[name]["command"][:4], "--insecure"]).metrics_port == int(port)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_reads_its_configuration(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text().replace("/etc/prometheus/rules", str(ROOT / "deploy/prometheus"))
    (tmp_path / "prometheus.yml").write_text(text)
    found = subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "1 rule files found" in found.stdout
