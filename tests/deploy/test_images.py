"""The Dockerfiles: linted, locked, and what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rendered import ROOT, serve_config

FOLDER = ROOT / "deploy" / "docker"
IMAGES = ("server", "device")


def text_of(image: str) -> str:
    return (FOLDER / f"{image}.Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str) -> None:
    file = FOLDER / f"{image}.Dockerfile"
    found = subprocess.run(["hadolint", "--failure-threshold=style", file], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("image", IMAGES)
def test_images_are_pinned_multi_stage_and_unprivileged(image: str) -> None:
    text = text_of(image)
    assert re.search(r"^ARG BASE=\S+:\d+\.\d+\S*$", text, re.MULTILINE)
    assert len(re.findall(r"^FROM \$\{BASE\}", text, re.MULTILINE)) == 2
    final = text.rsplit("FROM ", 1)[1]
    assert "USER 10001:10001" in final
    assert "HEALTHCHECK" in final
    assert re.findall(r"pip install(?! --require-hashes| --no-deps)", text) == []


def test_copied_files_are_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for image in IMAGES:
        for words in re.findall(r"^COPY (?!--from)(.*) \S+$", text_of(image), re.MULTILINE):
            for source in words.split():
                assert (ROOT / source).exists()
                assert any(Path(source).is_relative_to(folder) for folder in kept)


def test_locks_hold_what_was_tested() -> None:
    found = subprocess.run([sys.executable, FOLDER / "lock.py", "--check"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_every_locked_distribution_has_a_hash() -> None:
    for name in (*IMAGES, "build"):
        entries = re.split(r"\n(?=\S)", (FOLDER / f"{name}.lock").read_text())
        pinned = [entry for entry in entries if not entry.startswith("#")]
        assert pinned
        assert all(re.match(r"\S+==\S+", entry) and "--hash=sha256:" in entry for entry in pinned)


def test_a_check_sees_a_lock_that_lags_behind(tmp_path: Path) -> None:
    folder = tmp_path / "deploy" / "docker"
    folder.mkdir(parents=True)
    for path in (*FOLDER.glob("*.lock"), FOLDER / "lock.py"):
        (folder / path.name).write_text(path.read_text())
    (tmp_path / "deploy" / "constraints.txt").write_text("numpy==1.26.0\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace("grpcio>=", "grpcio>=99"))
    found = subprocess.run([sys.executable, folder / "lock.py", "--check"], capture_output=True, text=True)
    assert found.returncode == 1
    assert "numpy" in found.stdout
    assert "grpcio>=99" in found.stdout


def test_the_server_reads_the_images_command() -> None:
    words = re.findall(r'"([^"]+)"', re.findall(r"^CMD (.*)$", text_of("server"), re.MULTILINE)[-1])
    config = serve_config([*words, "--insecure"])
    exposed = re.search(r"^EXPOSE (\d+) (\d+)$", text_of("server"), re.MULTILINE)
    assert exposed
    assert (config.port, config.metrics_port) == tuple(map(int, exposed.groups()))
