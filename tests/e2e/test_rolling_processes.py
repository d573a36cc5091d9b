"""A rolling restart as an operator does it: SIGTERM to one process after the other, under load, and no query fails."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from del_client import Client, Patience
from del_client.codec_cache import CodecCache

TOKENS, TALKERS = 32, 4


class Process:
    """A server at a port of its own, started again at will."""

    def __init__(self, command: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._command = [*command, "--port", str(self.port)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert re.search("ready on", self._process.stdout.readline())

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()
        return self._process.returncode


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_query_fails(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "del_server.cli", "serve", "--model", str(tiny_model), "--codec", str(tiny_codec)]
    servers = [Process(command), Process(command)]
    over, answers, failures = threading.Event(), [], []
    addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)

    def talk(number: int) -> None:
        files = {"tokenizer": tiny_codec / "tokenizer.json", "chat_template": tiny_codec / "chat_template.jinja"}
        places = {"cache": CodecCache(tmp_path), "ledger": tmp_path / f"{number}.sqlite3"}
        with Client(addresses, **files, **places, patience=Patience(3600, 0.05, 0.5)) as client:
            while not over.is_set():
                try:
                    answer = client.complete("Hello", clear=True, max_new_tokens=TOKENS)
                    answers.append(tuple(token for delta in answer for token in delta.token_ids))
                except Exception as error:
                    failures.append(error)

    talkers = [threading.Thread(target=talk, args=(number,)) for number in range(TALKERS)]
    for talker in talkers:
        talker.start()
    codes = []
    for server in (*servers, *servers):
        codes.append(server.stop())
        before = len(answers)
        server.start()
        while len(answers) < before + 2 * TALKERS and not failures:
            over.wait(0.05)
    over.set()
    for talker in talkers:
        talker.join()
    codes += [server.stop() for server in servers]
    assert failures == []
    assert codes == [0] * 6
    assert len(set(answers)) == 1
    assert len(answers) >= 8 * TALKERS
