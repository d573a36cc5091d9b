"""A file system that is really full, under what a server writes: its log, its ready line, tokens, what it trains.

And a log that nobody reads, which fills up, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import torch
from filesystem import full
from server_process import SERVE
from torch import Tensor, nn

from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub
from del_server.access.token_file import read_tokens
from del_server.cli import main
from del_server.training import loop
from del_server.training.loop import Stage, run

NOWHERE = Path("/dev/full")
PORT = re.compile(r"ready on (\S+:\d+)")
STEPS = 6
pytestmark = pytest.mark.skipif(not NOWHERE.exists(), reason="there is no /dev/full")


def serve(model: Path, codec: Path, *more: str) -> list[str]:
    return [*SERVE, "--device", "cpu", "--model", str(model), "--codec", str(codec), "--log-level", "debug", *more]


def ask(address: str) -> int:
    """Tokens of an answer. Raises RpcError where no server is."""
    segments = [pb.Segment(public=pb.PublicSegment(token_ids=[5]))]
    options = pb.GenerationOptions(max_new_tokens=8, ignore_eos=True)
    opening = pb.OpenQuery(prompt_tokens=1, options=options, segments=segments, end=True)
    with grpc.insecure_channel(address) as channel:
        answers = InferenceServiceStub(channel).Generate(iter([pb.GenerateRequest(query_id=1, open=opening)]))
        return sum(len(answer.delta.token_ids) for answer in answers)


def test_a_server_whose_log_can_not_be_written_serves_on(tiny_model: Path, tiny_codec: Path) -> None:
    command = serve(tiny_model, tiny_codec)
    with NOWHERE.open("w") as nowhere, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=nowhere) as process:
        assert process.stdout is not None
        ready = PORT.search(process.stdout.readline().decode())
        assert ready
        assert [ask(ready[1]) for _ in range(20)] == [8] * 20
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_a_log_that_nobody_reads_holds_nobody_up(tiny_model: Path, tiny_codec: Path) -> None:
    command = serve(tiny_model, tiny_codec)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        size = fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        ready = PORT.search(process.stdout.readline().decode())
        assert ready
        for _ in range(size // 100):
            assert ask(ready[1]) == 8
        os.set_blocking(process.stderr.fileno(), False)
        assert process.stderr.read(2 * size)
        os.set_blocking(process.stderr.fileno(), True)
        assert ask(ready[1]) == 8
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert re.search(rb"WARNING del_server.logs: \d+ lines were lost", errors)


def test_a_server_that_can_not_say_that_it_is_ready_serves(tiny_model: Path, tiny_codec: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, command = f"127.0.0.1:{port}", serve(tiny_model, tiny_codec, "--port", str(port))
    with NOWHERE.open("w") as nowhere, subprocess.Popen(command, stdout=nowhere, stderr=subprocess.PIPE) as process:
        answered = 0
        while not answered and process.poll() is None:
            try:
                answered = ask(address)
            except grpc.RpcError:
                time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert (answered, process.returncode) == (8, 0), errors.decode()
    assert b"standard output can't be written" in errors


def test_a_token_that_nobody_has_seen_does_not_hold(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    command = [sys.executable, "-m", "del_server.cli", "token", "new", "ada", "--file", str(file)]
    with NOWHERE.open("w") as nowhere:
        done = subprocess.run(command, stdout=nowhere, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, read_tokens(file).all) == (1, ())
    assert done.stderr == "del-server: not all of the output was written: No space left on device\n"


def test_tokens_that_can_not_be_written_stay_as_they_are(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = disk / "tokens.json"
    assert main(["token", "new", "ada", "--file", str(file)]) == 0
    before = file.read_bytes()
    with full(disk):
        assert main(["token", "new", "eve", "--file", str(file)]) == 2
        assert main(["token", "revoke", "ada", "--file", str(file)]) == 2
    assert capsys.readouterr().err.count("can't be written (No space left on device)") == 2
    assert file.read_bytes() == before
    assert {path.name for path in disk.iterdir()} == {"tokens.json", "tokens.json.lock"}
    assert main(["token", "revoke", "ada", "--file", str(file)]) == 0


class TestTraining:
    def stages(self, model: nn.Linear, stop: int = STEPS) -> list[Stage]:
        def loss(stage: int, step: int) -> Tensor:
            if step == stop:
                signal.raise_signal(signal.SIGINT)
            return ((model.weight - step) ** 2).sum()

        return [Stage("only", [([model.weight], 0.1)], STEPS, loss)]

    def test_goes_on_without_a_checkpoint_and_keeps_the_former_one(
        self, disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        torch.manual_seed(1)
        start = nn.Linear(100, 100).state_dict()
        models = [nn.Linear(100, 100) for _ in range(3)]
        for model in models:
            model.load_state_dict(start)
        checkpoint = disk / "checkpoint.safetensors"
        run(self.stages(models[0]), models[0], None)
        with pytest.raises(loop.TrainingStopped):
            run(self.stages(models[1], stop=2), models[1], checkpoint)
        former = checkpoint.read_bytes()
        with full(disk):
            run(self.stages(models[2]), models[2], checkpoint)
        assert "No space left on device" in caplog.text
        assert torch.equal(models[2].weight, models[0].weight)
        assert (checkpoint.read_bytes(), list(disk.iterdir())) == (former, [checkpoint])

    def test_a_codec_that_can_not_be_written_is_told_in_a_line(
        self, disk: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = tmp_path / "text.txt"
        text.write_text("".join(f"{'ab' * 10} {'ba' * 10} " for _ in range(100)))
        small = ["--dim", "8", "--batch", "2", "--steps", "2", "--reference-steps", "1", "--mu", "5:60"]
        command = ["train", "--model", str(tiny_model), "--out", str(disk / "codec"), "--text", str(text), *small]
        precision = torch.get_float32_matmul_precision()
        with full(disk):
            assert main(command) == 2
        torch.set_float32_matmul_precision(precision)  # which training chooses for the whole process
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("del-server: "))
        assert "can't be written (" in line
        assert "No space left on device" in line
