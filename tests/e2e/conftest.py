"""One server of the tiny model for all tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import SERVE, running


@pytest.fixture(scope="session")
def server(tiny_model: Path, tiny_codec: Path) -> Iterator[str]:
    """Its address."""
    with running([*SERVE, "--model", str(tiny_model), "--codec", str(tiny_codec)]) as address:
        yield address
