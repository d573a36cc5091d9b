"""A server that is killed in each phase of a query, and started again: the device is told, or goes on, and nothing that
was sent is charged twice or not at all. docs/faults.md has the outcomes.
"""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mortal_server import memory_groups

from del_client import Client, Patience
from del_client.codec_cache import CodecCache
from del_codec.errors import UnavailableError

HERE = Path(__file__).parent
TOKENS = 20

pytestmark = pytest.mark.slow


class Lives:
    """A server at one address that dies in one phase, and is started anew to die in another; and a device's files."""

    def __init__(self, stack: ExitStack, model: Path, codec: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._stack, self._folder, self._address = stack, folder, f"127.0.0.1:{port}"
        self._served = [str(model), str(codec), str(port)]
        self._files = {"tokenizer": codec / "tokenizer.json", "chat_template": codec / "chat_template.jinja"}
        self.ledger = folder / "ledger.sqlite3"

    def begin(self, phase: str) -> subprocess.Popen[str]:
        """A life, from when it is ready."""
        command = [sys.executable, str(HERE / "mortal_server.py"), phase, *self._served]
        process = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._stack.callback(process.kill)
        assert process.stdout is not None
        assert "ready on" in process.stdout.readline()
        return process

    @contextmanager
    def followed(self, phase: str, by: str) -> Iterator[None]:
        """A life that ends in a phase, killed, and another that begins then."""
        first = self.begin(phase)

        def follow() -> None:
            assert first.wait() == -signal.SIGKILL
            for group in Path(memory_groups() or "/nowhere").glob(f"del-{first.pid}"):
                group.rmdir()
            self.begin(by)

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(follow)
            yield
            following.result()

    def device(self, cache: str = "cache") -> Client:
        places: dict[str, Any] = {"cache": CodecCache(self._folder / cache), "ledger": self.ledger}
        return Client(self._address, **self._files, **places, patience=Patience(60, 0.05, 0.5))

    def charged(self) -> tuple[int, int]:
        """Queries and private tokens in the ledger."""
        if not self.ledger.exists():
            return 0, 0
        with sqlite3.connect(self.ledger) as database:
            row = database.execute("SELECT count(DISTINCT query), coalesce(sum(tokens), 0) FROM releases").fetchone()
        database.close()
        return row


@pytest.fixture
def lives(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> Iterator[Lives]:
    with ExitStack() as stack:
        yield Lives(stack, tiny_model, tiny_codec, tmp_path)


@pytest.mark.parametrize("phase", ["connect", "info", "codec"])
def test_before_anything_is_asked_nothing_is_spent(lives: Lives, phase: str, tmp_path: Path) -> None:
    """Killed when a device connects, asks what is served, or fetches the codec: an error, or another attempt."""
    with lives.followed(phase, by="none"), suppress(UnavailableError), lives.device() as client:
        assert client.table
    assert lives.charged() == (0, 0)
    assert not list(tmp_path.glob("cache/*.part"))
    with lives.device() as client:
        answer = client.generate("one question", max_new_tokens=TOKENS)
        assert [token for delta in answer for token in delta.token_ids]
        assert lives.charged() == (1, answer.prepared.private_tokens)


@pytest.mark.parametrize(
    "phase",
    [
        "prefill",
        "stream",
        "last",
        pytest.param("memory", marks=pytest.mark.skipif(not memory_groups(), reason="no memory cgroup")),
    ],
)
def test_an_answer_goes_on_and_is_charged_once(lives: Lives, phase: str) -> None:
    """Killed in the prefill, in the middle, before the last message; by the kernel, for taking too much memory."""
    with lives.followed(phase, by="none"), lives.device() as client:
        answer = client.generate("a question", max_new_tokens=TOKENS)
        ids = [token for delta in answer for token in delta.token_ids]
        assert answer.finish.interruptions >= 1
        assert answer.usage.new_tokens == len(ids)
        again = client.send(answer.prepared, max_new_tokens=TOKENS)
        assert [token for delta in again for token in delta.token_ids] == ids
        assert again.finish.interruptions == 0
        assert lives.charged() == (1, answer.prepared.private_tokens)
