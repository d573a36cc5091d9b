"""`del-server serve` as an operator runs it: a process of its own, spoken to over loopback, stopped by a signal."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc
from del_server.cli import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A del-server process."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "del_server.cli", "serve", "--port", "0", "--device", "cpu", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        ready = re.match(r"del-server ready on (127\.0\.0\.1:\d+) ", self.line)
        if not ready:
            raise RuntimeError(f"not ready: {self.line!r} {self.process.communicate()}")
        self.address = ready[1]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate()
        return self.process.returncode, errors


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Servers that are gone when the test has ended, however it ends."""
    started: list[Server] = []
    yield started
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def requests_of(query_id: int, table: LatentTable, answer_tokens: int) -> list[pb.GenerateRequest]:
    """Two public tokens and three private ones of one bit a coordinate."""
    segment = encode(table, [100, 101, 102], NoiseSetting.from_mu(10.0, table.spec.dim, 1))
    private = pb.PrivateSegment(bits=1, noise_scale=segment.setting.scale, tokens=3, payload=segment.payload)
    segments = [pb.Segment(public=pb.PublicSegment(token_ids=[1, 60])), pb.Segment(private=private)]
    options = pb.GenerationOptions(max_new_tokens=answer_tokens, ignore_eos=True)
    fingerprint = bytes.fromhex(table.fingerprint)
    opening = pb.OpenQuery(codec_fingerprint=fingerprint, prompt_tokens=5, options=options)
    return [
        pb.GenerateRequest(query_id=query_id, open=opening),
        pb.GenerateRequest(query_id=query_id, segments=pb.SegmentChunk(segments=segments)),
        pb.GenerateRequest(query_id=query_id, end=pb.EndPrompt()),
    ]


def wire_size(messages: list[Any]) -> int:
    return sum(message.ByteSize() + 5 for message in messages)


def test_it_serves_counts_and_leaves_cleanly(servers: list[Server], tiny_model: Path, tiny_codec: Path) -> None:
    port = free_port()
    servers.append(Server("--model", str(tiny_model), "--codec", str(tiny_codec), "--metrics-port", str(port)))
    with grpc.insecure_channel(servers[0].address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        info = stub.GetServerInfo(pb.GetServerInfoRequest())
        download = stub.DownloadCodec(pb.DownloadCodecRequest(fingerprint=info.codecs[0].fingerprint))
        table = LatentTable.from_bytes(b"".join(response.chunk for response in download))
        assert bytes.fromhex(table.fingerprint) == info.codecs[0].fingerprint
        sent = [
            *requests_of(1, table, 10),
            *requests_of(2, table, 10),
            pb.GenerateRequest(query_id=9, end=pb.EndPrompt()),
        ]
        received = list(stub.Generate(iter(sent)))
    finished = {response.query_id for response in received if response.HasField("finish")}
    assert finished == {1, 2}
    assert [response.error.reason for response in received if response.HasField("error")] == ["QUERY_UNKNOWN"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        page = response.read().decode()
    samples = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    text = "".join(response.delta.text for response in received)
    expected = {
        'payload_bytes_total{bits="1",direction="received"}': 2 * 3 * 16 // 8,
        'payload_bytes_total{bits="1",direction="sent"}': len(text.encode()),
        'tokens_total{kind="private"}': 6,
        'tokens_total{kind="public"}': 4,
        'tokens_total{kind="generated"}': 20,
        'queries_total{outcome="length"}': 2,
        'queries_total{outcome="refused"}': 1,
        'queries_total{outcome="failed"}': 0,
        "queries_running": 0,
        "queries_waiting": 0,
        "engine_healthy": 1,
        "time_to_first_token_seconds_count": 2,
        "time_per_output_token_seconds_count": 18,
        'phase_seconds_count{phase="prefill"}': 2,
    }
    assert {name: float(samples[f"del_server_{name}"]) for name in expected} == expected
    for direction, messages in (("received", sent), ("sent", received)):
        carried = (samples[f'del_server_wire_bytes_total{{bits="{bits}",direction="{direction}"}}'] for bits in "01")
        assert sum(map(float, carried)) == wire_size(messages)
    assert (
        f'del_server_build_info{{engine="transformers",model="{tiny_model}",version="{info.server_version}"}}'
        in samples
    )
    assert servers[0].stop(signal.SIGINT) == (0, "")


def test_sigterm_lets_an_answer_finish(servers: list[Server], tiny_model: Path, tiny_codec: Path) -> None:
    servers.append(Server("--model", str(tiny_model), "--codec", str(tiny_codec)))
    table = LatentTable.load(tiny_codec / "device.safetensors")
    with grpc.insecure_channel(servers[0].address) as channel:
        requests: queue.Queue[pb.GenerateRequest | None] = queue.Queue()
        for request in requests_of(1, table, 400):
            requests.put(request)
        # Our side stays open: a server that drains must not wait for it.
        responses = inference_pb2_grpc.InferenceServiceStub(channel).Generate(iter(requests.get, None))
        first = next(responses)
        stopping = threading.Thread(target=servers[0].process.send_signal, args=(signal.SIGTERM,))
        stopping.start()
        tokens = len(first.delta.token_ids) + sum(len(response.delta.token_ids) for response in responses)
        stopping.join()
        requests.put(None)
    _, errors = servers[0].process.communicate()
    assert (tokens, servers[0].process.returncode, errors) == (400, 0, "")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a call with exit code 2 writes."""
    capsys.readouterr()
    assert main(["serve", "--port", "0", "--device", "cpu", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("del-server: ")
    return line


def test_a_missing_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.match("del-server: no such model: /nowhere ", refused(capsys, "--model", "/nowhere"))


def test_a_codec_of_another_model(
    capsys: pytest.CaptureFixture[str], tiny_model: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(tiny_model, tmp_path / "other")
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model)).save_pretrained(tmp_path / "other")
    line = refused(capsys, "--model", str(tmp_path / "other"), "--codec", str(tiny_codec))
    assert "was made for tiny" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("device.safetensors", b"\xff" * 64),
        ("device.safetensors", None),
        ("decoder.safetensors", b"\xff" * 64),
        ("decoder.safetensors", None),
        ("config.json", b"{"),
        ("soft_prompt/adapter_model.safetensors", None),
    ],
)
def test_a_damaged_codec(
    capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
    tiny_codec: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
) -> None:
    codec = tmp_path / "codec"
    shutil.copytree(tiny_codec, codec)
    if content is None:
        os.remove(codec / name)
    else:
        (codec / name).write_bytes(content)
    refused(capsys, "--model", str(tiny_model), "--codec", str(codec))


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        assert f"port is {port}" in refused(capsys, "--model", str(tiny_model), "--port", port)
        assert f"metrics-port is {port}" in refused(capsys, "--model", str(tiny_model), "--metrics-port", port)


@pytest.mark.parametrize(
    "arguments", [("--port", "65536"), ("--metrics-port", "-1"), ("--max-concurrent", "0"), ("--context", "3")]
)
def test_values_out_of_range(capsys: pytest.CaptureFixture[str], arguments: tuple[str, str]) -> None:
    assert arguments[0].removeprefix("--") in refused(capsys, *arguments)


def test_arguments_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["serve", "--port", "many"], ["serve", "--dtype", "int3"], ["swim"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: del-server" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    check = "import sys; from del_server.cli import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass\n"
    check += "print([name for name in ('torch', 'transformers', 'grpc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
