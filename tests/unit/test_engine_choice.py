"""`--engine` and `--engine-arg`: what is asked for is passed on, or refused by name."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from del_codec.errors import EngineError, InvalidValue
from del_server.app import _stopped_or_dead
from del_server.cli import main
from del_server.config import ServeConfig, parse_engine_args
from del_server.engine.base import Health


def test_values_are_json_or_text() -> None:
    given = ["tensor-parallel-size=2", "enforce_eager=true", "quantization=awq", 'hf_overrides={"a": 1}', "x=a=b"]
    assert parse_engine_args(given) == {
        "tensor_parallel_size": 2,
        "enforce_eager": True,
        "quantization": "awq",
        "hf_overrides": {"a": 1},
        "x": "a=b",
    }


@pytest.mark.parametrize("given", [["block_size"], ["=2"], [""], ["block-size=2", "block_size=3"]])
def test_anything_else_is_refused(given: list[str]) -> None:
    with pytest.raises(InvalidValue, match="engine-arg"):
        parse_engine_args(given)


def test_settings_of_vllm_are_for_vllm() -> None:
    with pytest.raises(InvalidValue, match="--engine vllm"):
        ServeConfig(engine_args={"block_size": 32})
    assert ServeConfig(engine="vllm", engine_args={"block_size": 32}).engine_args == {"block_size": 32}


def test_an_engine_that_there_is_not() -> None:
    with pytest.raises(InvalidValue, match="transformers, vllm"):
        ServeConfig(engine="llama")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_server_says_how_to_have_it(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--engine", "vllm", "--model", str(tiny_model)]) == 2
    assert "docs/engines.md" in capsys.readouterr().err


def test_vllm_takes_no_device(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--engine", "vllm", "--model", str(tiny_model), "--device", "cpu"]) == 2
    assert "CUDA_VISIBLE_DEVICES" in capsys.readouterr().err


class Dying:
    """An engine of which only the health is asked for."""

    def __init__(self) -> None:
        self.healths = [Health(True, "fine"), Health(False, "a step failed"), Health(False, "vLLM died", fatal=True)]

    def health(self) -> Health:
        return self.healths.pop(0)


async def test_a_server_whose_engine_died_for_good_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("del_server.service.health.SECONDS", 0.001)
    engine = Dying()
    with pytest.raises(EngineError, match="vLLM died"):
        await _stopped_or_dead(asyncio.Event(), engine)  # type: ignore[arg-type]
    assert not engine.healths


def test_a_failed_engine_has_an_exit_code_of_its_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EngineError("the engine died")

    monkeypatch.setattr("del_server.app.serve", fail)
    assert main(["serve", "--model", str(tiny_model)]) == 1
    assert "the engine died" in capsys.readouterr().err
