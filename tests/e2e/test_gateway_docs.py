"""The examples of docs/gateway.md, and README's lines for an existing app, run as they stand before a tiny model."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_process import gateway

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gateway.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python(number: int, server: str, tiny_codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gateway(server, tiny_codec, tmp_path, "--model", "smollm2", "--max-tokens", "8") as url:
        exec(compile(BLOCKS[number].replace("http://127.0.0.1:8085", url), str(PAGE), "exec"), {})
    assert capsys.readouterr().out


def test_readmes_three_lines_make_an_existing_app_private(server: str, tiny_codec: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (lines,) = (block for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M) if "OpenAI(" in block)
    assert re.findall(r"# (\d):", lines) == ["1", "2", "3"]
    app: dict[str, Any] = {"openai": openai, "messages": [{"role": "user", "content": "What helps against a cold?"}]}
    with gateway(server, tiny_codec, tmp_path, "--model", "smollm2", "--max-tokens", "8") as url:
        exec(compile(lines.replace("http://127.0.0.1:8085", url), "README.md", "exec"), app)
    assert app["answer"].choices[0].message.content
    assert getattr(app["answer"], "del")["private_tokens"] == len(app["messages"][0]["content"])


def test_curl(server: str, tiny_codec: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(curl.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    with gateway(server, tiny_codec, tmp_path, "--model", "smollm2", "--max-tokens", "8") as url:
        command = block.replace("http://127.0.0.1:8085", url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("data: [DONE]\n\n")
