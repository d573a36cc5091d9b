"""del-client classify against del-server with a codec that has tasks: two processes, a real (tiny) model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(server: str, tasked_codec: Path, tmp_path: Path) -> Run:
    """del-client classify in a process in which torch and transformers can't be imported."""
    blocked = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    code = blocked + "from del_client.cli import main; sys.exit(main())"
    files = ["--tokenizer", tasked_codec / "tokenizer.json", "--chat-template", tasked_codec / "chat_template.jinja"]
    fixed = [sys.executable, "-c", code, "classify", "--server", server, *map(str, files)]
    environment = {**os.environ, "DEL_CACHE": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*fixed, *arguments], capture_output=True, text=True, env=environment, check=False)

    return run


def test_a_text_under_a_task(run: Run) -> None:
    result = run("a dull film", "--task", "mood", "--mu", "15", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    figures = json.loads(result.stdout)
    assert figures["private_tokens"] == len("a dull film")
    assert figures["payload_bytes"] == figures["private_tokens"] * 16 // 8
    assert figures["wire_bytes"] > figures["payload_bytes"]
    assert {label["label"] for label in figures["labels"]} == {"good", "bad"}
    assert sum(label["probability"] for label in figures["labels"]) == pytest.approx(1)
    assert figures["labels"][0]["label"] == figures["label"]
    assert (figures["mu"], figures["bits"]) == (pytest.approx(15, rel=1e-3), 1)
    assert figures["epsilon_prompt"] > figures["epsilon_token"] > 0


def test_what_people_read(run: Run) -> None:
    result = run("one", "--pair", "other", "--task", "same", "--labels", "no", "maybe", "yes")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["maybe", "no", "yes"]
    assert all(re.fullmatch(r"\w+ +[\d.]+% +-[\d.]+", line) for line in lines)
    assert "8 of them private" in result.stderr
    assert "epsilon" in result.stderr
    quiet = run("one", "--labels", "no", "yes", "--quiet")
    assert (quiet.returncode, quiet.stderr, len(quiet.stdout.splitlines())) == (0, "", 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("text",), "labels"),
        (("text", "--task", "other"), "mood, same"),
        (("text", "--task", "same"), "asks about 2"),
        (("text", "--labels", "one"), "labels"),
        (("text", "--labels", "a", "b", "--template", "nothing"), "template"),
        (("text", "--task", "mood", "--mu", "-1"), "mu"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_in_the_clear_it_says_so(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("allow_clear = true\n")
    result = run("a dull film", "--task", "mood", "--public", "--policy", str(policy))
    assert result.returncode == 0
    assert "no privacy" in result.stderr
