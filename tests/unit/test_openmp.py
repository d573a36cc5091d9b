"""How torch's threads wait is set for the server, before torch is there to read it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from del_server.openmp import SETTINGS, stay_awake


@pytest.fixture(autouse=True)
def _nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {key: os.environ[key] for key in os.environ.keys() - SETTINGS.keys()})


def torch_with(monkeypatch: pytest.MonkeyPatch, folder: Path, library: str) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / library).touch()
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", {"torch": spec}.get)


def test_where_torch_brings_libgomp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch_with(monkeypatch, tmp_path, "libgomp.so.1")
    stay_awake()
    assert os.environ.items() >= SETTINGS.items()


@pytest.mark.parametrize("library", ["libomp.dylib", "libiomp5.so"])
def test_not_where_it_brings_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, library: str) -> None:
    torch_with(monkeypatch, tmp_path, library)
    stay_awake()
    assert not SETTINGS.keys() & os.environ.keys()


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "5")])
def test_who_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str) -> None:
    torch_with(monkeypatch, tmp_path, "libgomp.so.1")
    os.environ[name] = value
    stay_awake()
    assert {key: os.environ[key] for key in SETTINGS if key in os.environ} == {name: value}


def test_a_server_sets_it_before_torch_reads_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "del_server.cli", "serve", "--model", str(tmp_path / "none")]
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr
    if "GOMP_SPINCOUNT" not in told:
        pytest.skip("torch has another OpenMP here")
    assert "GOMP_SPINCOUNT = '1000'" in told
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in told
