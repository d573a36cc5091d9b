"""Each query of the Grafana dashboard gets data from a Prometheus that scraped a server under load."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from server_process import SERVE, running

from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub

DEPLOY = Path(__file__).parents[2] / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "del-server.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RULES = DEPLOY / "prometheus" / "del.rules.yml"
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs: [{{job_name: del-server, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
# Scrapes until rules are evaluated on what was scraped, on the slowest of machines.
RULES_LAG = 20
SETTINGS = ((8.0, 1), (8.0, 1), (5.0, 2), (20.0, 1), (12.0, 8))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """What a running one answers."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        url = f"{self._root}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url) as response:
            return json.loads(response.read())["data"]

    def values(self, expression: str) -> list[float]:
        return [float(row["value"][1]) for row in self.get("query", query=expression)["result"]]

    def scrapes(self) -> float:
        try:
            return sum(self.values('count_over_time(up{job="del-server"}[1h])'))
        except urllib.error.URLError:  # it is still starting
            return 0

    def wait_for_scrapes(self, more: int) -> None:
        wanted = self.scrapes() + more
        while self.scrapes() < wanted:
            time.sleep(0.1)


@contextmanager
def scraping(metrics_port: int, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus with our rules that has scraped the server once."""
    port, config = free_port(), folder / "prometheus.yml"
    config.write_text(CONFIG.format(rules=RULES, port=metrics_port))
    storage = f"--storage.tsdb.path={folder / 'data'}"
    command = ["prometheus", f"--config.file={config}", storage, f"--web.listen-address=127.0.0.1:{port}"]
    with subprocess.Popen([*command, "--log.level=error"]) as process:
        try:
            prometheus = Prometheus(port)
            prometheus.wait_for_scrapes(1)
            yield prometheus
        finally:
            process.terminate()


def opening(query_id: int, table: LatentTable, mu: float, bits: int) -> pb.GenerateRequest:
    """A whole query: two public tokens and three private ones."""
    segment = encode(table, [100, 101, 102], NoiseSetting.from_mu(mu, table.spec.dim, bits))
    private = pb.PrivateSegment(
        bits=bits, noise_scale=segment.setting.scale, tokens=segment.tokens, payload=segment.payload
    )
    return pb.GenerateRequest(
        query_id=query_id,
        open=pb.OpenQuery(
            codec_fingerprint=bytes.fromhex(table.fingerprint),
            prompt_tokens=5,
            options=pb.GenerationOptions(max_new_tokens=20, ignore_eos=True),
            segments=[pb.Segment(public=pb.PublicSegment(token_ids=[1, 60])), pb.Segment(private=private)],
            end=True,
        ),
    )


def load(address: str, table: LatentTable) -> int:
    """Answers, a ranking, a refusal and a question for what is served; how many tokens were generated."""
    with grpc.insecure_channel(address) as channel:
        stub = InferenceServiceStub(channel)
        stub.GetServerInfo(pb.GetServerInfoRequest())
        requests = [opening(number, table, mu, bits) for number, (mu, bits) in enumerate(SETTINGS, 1)]
        unfinished = pb.GenerateRequest(query_id=99, open=pb.OpenQuery(prompt_tokens=3))
        responses = list(stub.Generate(iter([*requests, unfinished])))
        segments = [pb.Segment(public=pb.PublicSegment(token_ids=[5, 6]))]
        stub.Score(pb.ScoreRequest(segments=segments, candidates=[pb.Candidate(token_ids=[7])]))
    return sum(len(response.delta.token_ids) for response in responses)


def asked(expression: str) -> str:
    """An expression as Grafana sends it, with all jobs and instances chosen."""
    for variable, value in (("$__rate_interval", "5m"), ("$job", ".*"), ("$instance", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (make tools installs Debian's)"
)
def test_every_query_of_the_dashboard_returns_data(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> None:
    table, port = LatentTable.load(tiny_codec / "device.safetensors"), free_port()
    serve = [*SERVE, "--model", str(tiny_model), "--codec", str(tiny_codec), "--metrics-port", str(port)]
    with running(serve) as address, scraping(port, tmp_path) as prometheus:
        generated = sum(load(address, table) for _ in range(3))
        prometheus.wait_for_scrapes(2)
        assert prometheus.values('sum(del_server_tokens_total{kind="generated"})') == [generated]
        expressions = {asked(target["expr"]) for panel in PANELS for target in panel["targets"]}
        for _ in range(RULES_LAG):
            expressions = {one for one in expressions if not any(map(math.isfinite, prometheus.values(one)))}
            if not expressions:
                break
            prometheus.wait_for_scrapes(1)
        assert expressions == set()
        for variable in BOARD["templating"]["list"][1:]:
            expression, label = asked(variable["query"]["query"])[len("label_values(") : -1].rsplit(", ", 1)
            assert prometheus.get(f"label/{label}/values", **{"match[]": expression})
        groups = prometheus.get("rules")["groups"]
        assert [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
