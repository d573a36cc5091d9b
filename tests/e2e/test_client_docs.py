"""Every example of docs/client.md, run as it stands against a real server process with a tiny model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
ADDRESS = "127.0.0.1:50051"


def name_of(block: tuple[str, str]) -> str:
    return f"{block[0]}-{BLOCKS.index(block) + 1}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home of the example's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DEL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block[0] == "python"], ids=name_of)
def test_python(
    block: tuple[str, str],
    server: str,
    tiny_codec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The tiny model's tokenizer takes the place of one that comes with the package.
    monkeypatch.setattr("del_client.pinned.codec_folders", lambda: [tiny_codec])
    exec(compile(block[1].replace(ADDRESS, server), str(PAGE), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if "refusal" in block[1]:
        assert "limits.prompt.epsilon" in printed
    if "{{Ada}}" in block[1]:
        assert "\nI am [SECRET_1], [EMAIL_1]. Write me a greeting.\n" in printed
    assert bool(printed) == ("print(" in block[1] and "def tell" not in block[1])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block[0] == "sh"], ids=name_of)
def test_shell(block: tuple[str, str], server: str, tiny_codec: Path, tmp_path: Path) -> None:
    script = f'del-client() {{ "{sys.executable}" -m del_client.cli "$@"; }}\nset -e\n{block[1]}'
    environment = {
        **os.environ,
        "DEL_SERVER": server,
        "DEL_TOKENIZER": str(tiny_codec / "tokenizer.json"),
        "DEL_CHAT_TEMPLATE": str(tiny_codec / "chat_template.jinja"),
    }
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    if "config" in block[1]:
        assert re.search(r"^bits +2 +DEL_BITS$", done.stdout, re.MULTILINE)
        assert re.search(r"^mu +8.0 +/", done.stdout, re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(BLOCKS) > 10
