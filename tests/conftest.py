"""A tiny model and a codec for it, made once a session: random weights, real formats, no network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tiny import write_tiny_codec, write_tiny_model

# Before transformers is imported: tests need no network, and the hub's client would look for one.
os.environ["HF_HUB_OFFLINE"] = "1"
# Programs that come with development dependencies lie beside the interpreter, which need not be on the path.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
# Shells ignore Ctrl-C for what they start in the background, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if importlib.util.find_spec("hypothesis"):  # vLLM's environment has none, and its tests need none
    from hypothesis import HealthCheck, settings

    # No clock fails a test: other work may have the machine. What else holds is hypothesis' own choice, here and in CI.
    settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads settings, or writes a ledger, in the folders of who runs it; processes inherit this."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of two layers over bytes (259 ids), with tokenizer and chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, with heads as wide as vLLM's attention on a CPU needs them."""
    return write_tiny_model(tmp_path_factory.mktemp("wide-model"), head_dim=32)


@pytest.fixture(scope="session")
def tiny_codec(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained codec (d = 16, four soft tokens) for the tiny model."""
    return write_tiny_codec(tiny_model, tmp_path_factory.mktemp("tiny-codec"))


@pytest.fixture(scope="session")
def tasked_codec(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny codec with untrained tasks of five soft tokens: "mood", of one field, and "same", of two."""
    import torch

    from del_codec.task import Task
    from del_server.tasks import save_task

    folder = tmp_path_factory.mktemp("tasked") / "codec"
    shutil.copytree(tiny_codec, folder)
    torch.manual_seed(1)
    for task in (Task("mood", "Text: {}\nMood:", ("good", "bad")), Task("same", "1: {}\n2: {}\nSame: ", ("no", "yes"))):
        save_task(folder, task, torch.randn(5, 32), "tiny")
    return folder
