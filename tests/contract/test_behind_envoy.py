"""Devices behind the Envoy example: two servers, TLS on both sides, one of which leaves in the middle of an answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from serving import StartServer

from benchmarks.certificates import Authority
from del_client import AsyncClient, Ledger
from del_client.access import Access
from del_client.retrying import Patience

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "envoy" / "envoy.yaml"
NAME = "del-server.default.svc.cluster.local"
TOKENS = 200


def adapted(authority: Authority, cert: Path, key: Path, servers: list[int]) -> dict[str, Any]:
    """The example with this test's addresses and certificates, and nothing else changed."""
    text = EXAMPLE.read_text().replace("/etc/envoy/servers/ca.crt", str(authority.path))
    text = text.replace("/etc/envoy/tls/tls.crt", str(cert)).replace("/etc/envoy/tls/tls.key", str(key))
    text = text.replace("{path: /etc/envoy/tls}", f"{{path: {cert.parent}}}")
    text = text.replace(
        f"{{san_type: DNS, matcher: {{exact: {NAME}}}}}", "{san_type: IP_ADDRESS, matcher: {exact: 127.0.0.1}}"
    )
    config: dict[str, Any] = yaml.safe_load(text)
    resources = config["static_resources"]
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    resources["listeners"][0]["address"] = config["admin"]["address"] = loopback
    resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in servers
    ]
    return config


@contextmanager
def envoy(config: dict[str, Any], folder: Path) -> Iterator[tuple[int, str]]:
    """The port for devices, and the address of its administration."""
    (folder / "envoy.json").write_text(json.dumps(config))
    told = folder / "admin"
    command = ["envoy", "-c", folder / "envoy.json", "--admin-address-path", told, "--concurrency", "1"]
    with subprocess.Popen([*command, "--disable-hot-restart", "--log-level", "error"]) as process:
        try:
            while not (told.exists() and told.read_text()):
                assert process.poll() is None
            admin = told.read_text()
            with urllib.request.urlopen(f"http://{admin}/listeners?format=json") as answer:
                (listener,) = json.load(answer)["listener_statuses"]
            yield listener["local_address"]["socket_address"]["port_value"], admin
        finally:
            process.terminate()


async def healthy(admin: str, count: int) -> None:
    """Wait until Envoy's own health checks have found so many servers."""

    def found() -> int:
        with urllib.request.urlopen(f"http://{admin}/clusters?format=json") as answer:
            hosts = json.load(answer)["cluster_statuses"][0].get("host_statuses", [])
        return sum(host["health_status"].get("failed_active_health_check", False) is False for host in hosts)

    while await asyncio.to_thread(found) != count:
        await asyncio.sleep(0.05)


async def test_an_answer_goes_on_where_its_server_leaves(
    start_server: StartServer, tiny_codec: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("all")
    tls = {"tls_cert": cert, "tls_key": key, "drain_seconds": 0.0}
    with Ledger(tmp_path / "ledger.sqlite3") as ledger:
        async with start_server(**tls) as one, start_server(**tls) as two:
            with envoy(adapted(authority, cert, key, [one.port, two.port]), tmp_path) as (port, admin):
                await healthy(admin, 2)
                client = AsyncClient(
                    f"127.0.0.1:{port}",
                    ledger=ledger,
                    access=Access(tls_ca=authority.path),
                    patience=Patience(20.0),
                    tokenizer=tiny_codec / "tokenizer.json",
                    chat_template=tiny_codec / "chat_template.jinja",
                )
                async with client:
                    answer = client.generate("where?", mu=10.0, max_new_tokens=TOKENS, temperature=0.0)
                    deltas = aiter(answer)
                    await anext(deltas)
                    (leaving,) = (each for each in (one, two) if each.sample("queries_running"))
                    await leaving.stop()
                    async for _ in deltas:
                        pass
                    again = client.send(answer.prepared, max_new_tokens=TOKENS, temperature=0.0)
                    async for _ in again:
                        pass
    assert answer.usage.new_tokens == TOKENS
    assert answer.token_ids == again.token_ids
