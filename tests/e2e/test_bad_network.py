"""Real processes over a bad network: the answer comes whole, and is the one that an undisturbed network brings."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cable as cables
from del_client import Client, Patience
from del_client.codec_cache import CodecCache

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOKENS = 60
PROMPT = "a prompt that an answer of some length is given to"


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(processes: ExitStack, command: list[str]) -> tuple[subprocess.Popen[str], str]:
    """A process that will be gone when the test is, and the first line that it writes."""
    process = processes.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    processes.callback(process.kill)
    assert process.stdout is not None
    return process, process.stdout.readline()


def slow_server(tiny_model: Path, tiny_codec: Path, host: str, port: int, seconds: float) -> list[str]:
    command = [sys.executable, str(HERE / "slow_server.py"), str(seconds), "serve", "--dtype", "float32"]
    return [*command, "--host", host, "--port", str(port), "--model", str(tiny_model), "--codec", str(tiny_codec)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def files(codec: Path) -> dict[str, Path]:
    return {"tokenizer": codec / "tokenizer.json", "chat_template": codec / "chat_template.jinja"}


@pytest.mark.parametrize("sampling", [{}, pytest.param({"temperature": 1.0}, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_in_the_middle_and_comes_back(
    tiny_model: Path, tiny_codec: Path, tmp_path: Path, processes: ExitStack, sampling: dict[str, Any]
) -> None:
    command = slow_server(tiny_model, tiny_codec, "127.0.0.1", free_port(), 0.05)
    process, line = start(processes, command)
    ready = re.search(r"ready on (\S+:\d+)", line)
    assert ready
    options = {**sampling, "max_new_tokens": TOKENS, "seed": 11 if sampling else None}
    places = {"cache": CodecCache(tmp_path), "ledger": tmp_path / "ledger.sqlite3"}
    with Client(ready[1], **files(tiny_codec), **places, patience=Patience(60)) as client:
        undisturbed = client.generate(PROMPT, **options)
        expected = [token for delta in undisturbed for token in delta.token_ids]
        disturbed = client.send(undisturbed.prepared, **options)
        for _ in disturbed:
            if len(disturbed.token_ids) == min(10, len(expected) // 2):
                process.send_signal(signal.SIGKILL)
                process.wait()
                process, line = start(processes, command)
                assert "ready on" in line
        assert disturbed.token_ids == expected
        assert disturbed.text == undisturbed.text
        assert disturbed.finish.interruptions >= 1
        assert disturbed.usage.new_tokens == len(expected)
        assert disturbed.finish.reason == undisturbed.finish.reason


@pytest.mark.slow
class TestNarrow:
    """64 kbit/s and 200 ms there and back, between two namespaces."""

    @pytest.fixture
    def cable(self) -> Iterator[cables.Cable]:
        reason = cables.refused()
        if reason:
            pytest.skip(reason)
        with cables.Cable() as cable:
            yield cable

    @pytest.fixture
    def serve(
        self, cable: cables.Cable, tiny_model: Path, tiny_codec: Path, processes: ExitStack
    ) -> Callable[[], subprocess.Popen[str]]:
        """Starts a server at its end of the cable."""
        command = slow_server(tiny_model, tiny_codec, "127.0.0.1", 50051, 0.1)

        def serve() -> subprocess.Popen[str]:
            process, line = start(processes, cable.within(cable.server, *command))
            assert "ready on" in line
            return process

        return serve

    @pytest.fixture
    def ask(self, cable: cables.Cable, tiny_codec: Path, processes: ExitStack) -> list[str]:
        """The command of a device behind the cable; before the server stands a proxy that delays by 100 ms each way."""
        proxy = [sys.executable, str(ROOT / "benchmarks" / "bad_network.py")]
        proxy += [f"{cables.SERVER}:50052", "127.0.0.1:50051", "0.1"]
        _, line = start(processes, cable.within(cable.server, *proxy))
        assert line == "ready\n"
        device = [sys.executable, "-u", "-m", "del_client.cli", "ask", PROMPT, "--public", "--max-tokens", str(TOKENS)]
        device += ["--tokenizer", str(tiny_codec / "tokenizer.json")]
        device += ["--chat-template", str(tiny_codec / "chat_template.jinja")]
        return cable.within(cable.device, *device, "--server", f"{cables.SERVER}:50052", "--insecure")

    def test_an_answer_comes(self, ask: list[str], serve: Callable[[], Any]) -> None:
        serve()
        first, second = (subprocess.run(ask, capture_output=True, text=True, check=True) for _ in range(2))
        assert first.stdout == second.stdout
        assert "trying again" not in first.stderr

    def test_a_link_that_is_down_for_ten_seconds(
        self, ask: list[str], serve: Callable[[], Any], cable: cables.Cable
    ) -> None:
        serve()
        undisturbed = subprocess.run(ask, capture_output=True, text=True, check=True)
        with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as device:
            assert device.stdout is not None
            begun = device.stdout.read(5)
            cable.cut()
            time.sleep(10)
            cable.mend()
            rest, errors = device.communicate()
        assert device.returncode == 0, errors
        assert begun + rest == undisturbed.stdout

    def test_a_server_that_is_killed(self, ask: list[str], serve: Callable[[], subprocess.Popen[str]]) -> None:
        server = serve()
        undisturbed = subprocess.run(ask, capture_output=True, text=True, check=True)
        with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as device:
            assert device.stdout is not None
            begun = device.stdout.read(5)
            server.kill()
            server.wait()
            serve()
            rest, errors = device.communicate()
        assert device.returncode == 0, errors
        assert "trying again" in errors
        assert begun + rest == undisturbed.stdout
