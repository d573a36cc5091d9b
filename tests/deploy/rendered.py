"""The chart as Helm renders it, and the command lines that deployments give to del-server, read as it reads them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import helm_python
import yaml

from del_server.commands import serve
from del_server.config import ServeConfig

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "del-server"
PLAIN: dict[str, Any] = {"insecure": True}


def objects(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a release named demo in namespace prod consists of, by kind and what else its name has."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="demo", namespace="prod")
    manifests = (text for name, text in files.items() if name.endswith(".yaml"))
    found = [each for text in manifests for each in yaml.safe_load_all(text) if each]
    return {each["metadata"]["name"].replace("demo-del-server", each["kind"]): each for each in found}


def serve_config(words: list[str]) -> ServeConfig:
    """`del-server WORDS`, checked as a start checks it, short of loading anything."""
    assert words[0] == "serve"
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    return serve.read_config(parser.parse_args(words[1:]))
