"""The Python examples of docs/gateway.md, run as they stand against real processes with a tiny model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from gateway_process import gateway

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python(number: int, server: str, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gateway(server, tiny_codec, tmp_path, "--model", "smollm2", "--max-tokens", "8") as url:
        exec(compile(BLOCKS[number].replace("http://127.0.0.1:8085", url), str(PAGE), "exec"), {})
    assert capsys.readouterr().out


def test_curl(server: str, tiny_codec: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(curl.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    with gateway(server, tiny_codec, tmp_path, "--model", "smollm2", "--max-tokens", "8") as url:
        command = block.replace("http://127.0.0.1:8085", url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("data: [DONE]\n\n")
