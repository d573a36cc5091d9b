"""A plan of trainings: done in one go or in pieces, and evaluated by groups of seeds."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import frontier
from del_codec.errors import InvalidValue
from del_server.commands.train import RUN_FILE
from del_server.training import loop


@pytest.fixture(autouse=True)
def _float32_as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("ab" * 2000)
    small = {"dim": 8, "batch": 4, "steps": 4, "reference_steps": 1, "mu_low": 5.0}
    arguments = [
        "--count",
        "2",
        "--beam",
        "2",
        "--attacks",
        "prior,map,inversion",
        "--attack-steps",
        "2",
        "--attack-batch",
        "2",
        "--mu",
        "10",
    ]
    return {
        "model": str(tiny_model),
        "text": ["a.txt"],
        "users": [],
        "self_text": 4,
        "self_text_batch": 4,
        "codecs": [
            {"name": "one", "recipe": "joint", "seeds": [0, 1], "options": small},
            {"name": "two", "recipe": "paper", "seeds": [0], "options": small},
        ],
        "evaluate": {"text": ["a.txt"], "attack_text": ["a.txt"], "arguments": arguments},
        "understanding": [],
    }


def go(plan: dict[str, Any], folder: Path, *words: str) -> int:
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    return frontier.main([str(path), "--text", str(folder / "text"), "--out", str(folder / "out"), *words])


@pytest.mark.slow
def test_a_plan_is_done_whole_and_only_once(plan: dict[str, Any], tmp_path: Path) -> None:
    assert go(plan, tmp_path) == 0
    out = tmp_path / "out"
    assert {path.parent.name for path in out.glob(f"*/{RUN_FILE}")} == {"one-0", "one-1", "two-0"}
    one = json.loads((out / "one.json").read_text())
    assert [Path(folder).name for folder in one["facts"]["codec"]] == ["one-0", "one-1"]
    assert set(one["texts"][0]["rows"][0]["attacks"]) == {"prior", "map", "inversion"}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert go(plan, tmp_path) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == written


def test_what_time_cut_off_is_gone_on_with(
    plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is up in every third step."""
    rate, seen = loop._schedule, []

    def schedule(step: int, steps: int) -> float:
        if step % 3 == 2 and step not in seen:
            signal.raise_signal(signal.SIGINT)
        seen.append(step)
        return rate(step, steps)

    monkeypatch.setattr(loop, "_schedule", schedule)
    plan["codecs"][0]["options"] = {**plan["codecs"][0]["options"], "steps": 100}
    checkpoint = tmp_path / "out" / "one-0" / "checkpoint.safetensors"
    assert go(plan, tmp_path) == 3
    before = checkpoint.read_bytes()
    assert go(plan, tmp_path) == 3
    assert checkpoint.read_bytes() != before
    assert sorted(set(seen)) == list(range(6))
    assert not list((tmp_path / "out").glob(f"*/{RUN_FILE}"))


def test_time_may_be_up_before_a_training_begins(plan: dict[str, Any], tmp_path: Path) -> None:
    plan["codecs"][0]["options"] = {**plan["codecs"][0]["options"], "steps": 100_000}
    assert go(plan, tmp_path, "--seconds", "0.001") == 3
    assert not list((tmp_path / "out").glob(f"*/{RUN_FILE}"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "x"}'])
def test_another_file_is_no_plan(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InvalidValue, match="plan is"):
        frontier.main([str(tmp_path / "plan.json"), "--text", str(tmp_path), "--out", str(tmp_path / "out")])


def test_the_plan_in_the_repository_can_be_read() -> None:
    plan = frontier.read_plan(Path(frontier.__file__).parent / "plans" / "smollm2.json")
    names = [f"{item.name}-{item.seed}" for item in frontier.items(plan)]
    assert len(names) == len(set(names)) > 3
