"""The Helm chart: linted and rendered by Helm, each object held against Kubernetes' schemas, each promise looked up."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from rendered import CHART, PLAIN, ROOT, objects, serve_config

from del_server.service.health import LIVE, READY

KUBERNETES = ("1.30", "1.34", "1.37")
QUOTAS = "[default]\nqueries_a_minute = 60\n"
TLS = {"tls": {"secretName": "del-tls", "clientCaSecretName": "del-clients"}, "tokensSecretName": "del-tokens"}
ALL = {
    "autoscaling": {"enabled": True},
    "metrics": {name: {"enabled": True} for name in ("podMonitor", "rules", "dashboard")},
    "codecs": ["/models/new", "/models/old"],
    "quotas": QUOTAS,
    "kvBytes": 40_000_000_000,
    "networkPolicy": {"egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}]},
}
# A value that is given, and a word of the message that refuses it.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "insecure"),
    ({**PLAIN, **TLS}, "oneOf"),
    ({**PLAIN, "tokensSecretName": "tokens in plain text"}, "tokensSecretName"),
    ({**PLAIN, "replica": 3}, "replica"),
    ({**PLAIN, "replicas": 0}, "replicas"),
    ({**PLAIN, "drainSeconds": "60s"}, "drainSeconds"),
    ({**PLAIN, "drainSeconds": 86_401}, "drainSeconds"),
    ({**PLAIN, "gpus": 0}, "gpus"),
    ({**PLAIN, "image": {"tag": "latest"}}, "image"),
    ({**PLAIN, "image": {"digest": "sha256:1"}}, "digest"),
    ({**PLAIN, "service": {"port": 80}}, "port"),
    ({**PLAIN, "contextTokens": 8}, "contextTokens"),
    ({**PLAIN, "rollout": {"maxSurge": 0, "maxUnavailable": 0}}, "rollout"),
    ({**PLAIN, "models": {"existingClaim": ""}}, "existingClaim"),
]


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    return objects({**PLAIN, **ALL})


@pytest.fixture(scope="module")
def secured() -> dict[str, dict[str, Any]]:
    return objects({**TLS, **ALL})


def pod_of(rendered: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return rendered["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", [PLAIN, TLS, {**PLAIN, **ALL}])
def test_helm_finds_nothing_to_say(values: dict[str, Any]) -> None:
    found = helm_python.lint(CHART, values, strict=True, kube_version="v1.30.0")
    assert [each["error"] for each in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_fit_kubernetes_schemas(version: str, plain: dict[str, Any], secured: dict[str, Any]) -> None:
    checked = [
        each
        for each in (*plain.values(), *secured.values())
        if not each["apiVersion"].startswith("monitoring.coreos.com/")
    ]
    assert {each["kind"] for each in checked} >= {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
    }
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("kind", ["PodMonitor", "PrometheusRule"])
def test_objects_fit_the_operators_schemas(kind: str, plain: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "crds" / f"{kind}.json").read_text())
    jsonschema.validate(plain[kind], closed(schema))


def closed(schema: Any) -> Any:
    """Where properties are listed, no others: the API server would drop them in silence."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "kind" not in schema["properties"]:
        found["additionalProperties"] = False
    return found


def test_a_closed_schema_sees_a_misspelt_field(plain: dict[str, Any]) -> None:
    schema = json.loads((Path(__file__).parent / "crds" / "PodMonitor.json").read_text())
    wrong = json.loads(json.dumps(plain["PodMonitor"]))
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        jsonschema.validate(wrong, closed(schema))


@pytest.mark.parametrize(("values", "word"), REFUSED)
def test_values_that_contradict_are_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(helm_python.HelmError, match=word):
        objects(values)


@pytest.mark.parametrize("drain", [0, 60, 3600])
def test_a_pod_is_given_longer_than_its_drain_takes(drain: int) -> None:
    pod = pod_of(objects({**PLAIN, "drainSeconds": drain}))
    server = pod["containers"][0]
    assert serve_config(server["args"]).drain_seconds == drain
    left_alone = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > left_alone + drain


def test_the_server_reads_its_arguments(plain: dict[str, Any], secured: dict[str, Any]) -> None:
    server = pod_of(plain)["containers"][0]
    config = serve_config(server["args"])
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    assert (config.port, config.metrics_port) == (ports["grpc"], ports["metrics"])
    assert config.codecs == (Path("/models/new"), Path("/models/old"))
    assert config.kv_bytes == ALL["kvBytes"]
    mounted = {each["mountPath"] for each in pod_of(secured)["containers"][0]["volumeMounts"]}
    asked = serve_config(pod_of(secured)["containers"][0]["args"])
    files = (asked.tls_cert, asked.tls_key, asked.tls_client_ca, asked.tokens, asked.quotas)
    assert {str(path.parent) for path in files if path} <= mounted
    assert all(files)
    assert secured["ConfigMap-quotas"]["data"] == {asked.quotas and asked.quotas.name: QUOTAS}


def test_pods_are_unprivileged_and_have_a_gpu(plain: dict[str, Any]) -> None:
    pod = pod_of(plain)
    server = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_probes_ask_over_what_the_server_speaks(plain: dict[str, Any], secured: dict[str, Any]) -> None:
    asks = [sys.executable, ROOT / "deploy/docker/health.py", "--help"]
    help_text = subprocess.run(asks, capture_output=True, text=True, check=True).stdout
    for name, service in (("startupProbe", READY), ("readinessProbe", READY), ("livenessProbe", LIVE)):
        assert pod_of(plain)["containers"][0][name]["grpc"] == {"port": 50051, "service": service}
        python, script, *options = pod_of(secured)["containers"][0][name]["exec"]["command"]
        assert (python, script) == ("/opt/del/bin/python", "/opt/del/health.py")
        assert f"--service={service}" in options
        assert all(option.split("=")[0] in help_text for option in options)


def test_the_service_is_headless_and_selects_the_pods(plain: dict[str, Any]) -> None:
    service = plain["Service"]["spec"]
    assert service["clusterIP"] == "None"
    labels = plain["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        service["selector"],
        plain["Deployment"]["spec"]["selector"]["matchLabels"],
        plain["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        plain["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        plain["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


def test_replicas_are_the_autoscalers_alone_where_there_is_one(plain: dict[str, Any]) -> None:
    assert "replicas" not in plain["Deployment"]["spec"]
    assert plain["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 2
    assert objects(PLAIN)["Deployment"]["spec"]["replicas"] == 2
    assert "HorizontalPodAutoscaler" not in objects(PLAIN)


def test_rules_and_dashboard_are_those_that_are_tested(plain: dict[str, Any], tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/del.rules.yml").read_text())
    dashboard = (ROOT / "deploy/grafana/del-server.json").read_text()
    assert plain["PrometheusRule"]["spec"] == rules
    assert plain["ConfigMap-dashboard"]["data"]["del-server.json"] == dashboard
    with tarfile.open(helm_python.package(CHART, destination=tmp_path)) as package:
        packed = package.extractfile("del-server/files/del.rules.yml")
        assert packed
        assert yaml.safe_load(packed.read()) == rules
