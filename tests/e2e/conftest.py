"""One server of the tiny model for all tests that only ask it, one that records what it is asked, and a small disk."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filesystem import mounted
from recording_server import ANSWER, Recorder
from server_process import SERVE, running


@pytest.fixture(scope="session")
def server(tiny_model: Path, tasked_codec: Path) -> Iterator[str]:
    """Its address."""
    with running([*SERVE, "--model", str(tiny_model), "--codec", str(tasked_codec)]) as address:
        yield address


@pytest.fixture(scope="session")
def recording_process(
    tiny_model: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recorder]:
    file = tmp_path_factory.mktemp("record") / "requests"
    program = [sys.executable, str(Path(__file__).with_name("recording_server.py"))]
    command = [*program, str(file), str(tiny_codec / "tokenizer.json"), ANSWER, "serve", "--port", "0"]
    with running([*command, "--model", str(tiny_model), "--codec", str(tiny_codec)]) as address:
        yield Recorder(address, file)


@pytest.fixture
def recorder(recording_process: Recorder) -> Recorder:
    """The same server for all, each test with an empty record."""
    recording_process.file.unlink(missing_ok=True)
    return recording_process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system of its own; where none may be mounted, the test is skipped."""
    try:
        place = mounted(tmp_path / "disk")
        folder = place.__enter__()
    except OSError as error:
        pytest.skip(f"no file system may be mounted: {error}")
    with contextlib.ExitStack() as stack:
        stack.push(place.__exit__)
        yield folder
