"""Calibration finds the mu of a known curve, says how sure it is, and says when there is none."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_server.codec import REFERENCES_FILE
from del_server.commands import calibrate as calibrate_command
from del_server.evaluation.calibration import Calibration, calibrate
from del_server.evaluation.estimate import Estimate

DIM, BITS = 16, 1


def truth(mu: float) -> float:
    """A success that rises with mu, through 0.25 at mu = 10."""
    return mu / (mu + 30)


def run(target: float, *, low: float = 1, high: float = 60, windows: int = 0, seed: int = 0) -> Calibration:
    """windows: of 64 tokens, of which each is recovered or not; 0 for the true share itself."""
    rng = np.random.default_rng(seed)

    def measure(settings: Sequence[NoiseSetting]) -> list[Estimate]:
        shares = [truth(setting.mu(DIM)) for setting in settings]
        if not windows:
            return [Estimate(share, 0.0, share, share) for share in shares]
        return [Estimate.of(rng.binomial(64, share, windows) / 64) for share in shares]

    return calibrate(measure, target, DIM, BITS, low, high)


def test_it_finds_the_mu_of_a_known_curve() -> None:
    found = run(0.25)
    assert found.outcome == "met"
    assert found.mu == pytest.approx(10, rel=0.01)
    assert found.success.mean == pytest.approx(0.25, abs=0.002)
    # What is certified and deployed are the integers, not the mu that was aimed at.
    assert found.mu == found.setting.mu(DIM)
    assert found.setting.bits == BITS


def test_its_interval_holds_the_true_mu_about_as_often_as_it_says() -> None:
    found = [run(0.25, windows=60, seed=seed) for seed in range(60)]
    inside = [result.mu_low <= 10 <= result.mu_high for result in found]
    assert np.mean(inside) > 0.85
    assert all(result.mu_low <= result.mu_high for result in found)
    assert np.median([result.mu for result in found]) == pytest.approx(10, rel=0.05)


def test_more_windows_make_it_surer() -> None:
    few, many = run(0.25, windows=10), run(0.25, windows=1000)
    assert many.mu_high / many.mu_low < few.mu_high / few.mu_low


def test_every_point_is_reported_in_order() -> None:
    points = run(0.25).points
    assert [point.mu for point in points] == sorted(point.mu for point in points)
    assert all(point.success.mean == truth(point.mu) for point in points)


def test_a_target_above_the_whole_range_gives_its_top_and_says_so() -> None:
    found = run(0.9)
    assert found.outcome == "below"
    assert found.mu == pytest.approx(60, rel=1e-3)
    assert found.success.mean < 0.9


def test_a_target_below_the_whole_range_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"from mu 20 up: there the attack still reads 0\.400"):
        run(0.1, low=20)


@pytest.mark.parametrize(
    ("target", "low", "high", "named"),
    [(0.0, 1, 60, "target-asr"), (1.0, 1, 60, "target-asr"), (0.2, 5, 5, "mu"), (0.2, 0, 5, "mu")],
)
def test_bad_input_is_named(target: float, low: float, high: float, named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        run(target, low=low, high=high)


@pytest.fixture
def folder(tiny_codec: Path, tmp_path: Path) -> Path:
    """The untrained codec with references, as training would leave it."""
    copy = shutil.copytree(tiny_codec, tmp_path / "codec")
    soft = torch.zeros(1, 32)
    safetensors.torch.save_file({"floor": soft, "ceiling": soft + 1}, copy / REFERENCES_FILE)
    return copy


def command(model: Path, codec: Path, tmp_path: Path, *arguments: object) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The rain in Spain stays mainly in the plain. " * 20)
    parser = argparse.ArgumentParser()
    calibrate_command.add_arguments(parser)
    small = ["--prompt", 12, "--continuation", 6, "--count", 40, "--beam", 2]
    words = ["--model", model, "--codec", codec, "--text", text, *small, *arguments]
    calibrate_command.run(parser.parse_args([str(word) for word in words]))


def test_the_command_says_what_to_deploy(
    tiny_model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    command(tiny_model, folder, tmp_path, "--target-asr", 0.5, "--bits", 8, "--mu", "1:400", "--json", result)
    printed = capsys.readouterr().out
    found = json.loads(result.read_text())
    setting = NoiseSetting(**found["setting"])
    assert f"8 bits (noise scale {setting.scale}): attack map reads" in printed
    assert found["mu"] == pytest.approx(setting.mu(16))
    assert found["success"]["mean"] == pytest.approx(0.5, abs=0.2)  # 480 tokens, fresh bits
    assert found["mu_low"] <= found["mu_high"]
    assert len(found["points"]) == 18


def test_the_command_says_that_the_range_stays_below(
    tiny_model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(tiny_model, folder, tmp_path, "--target-asr", 0.9, "--attack", "strongest", "--mu", "1:2")
    assert "is not reached up to mu 2" in capsys.readouterr().out


def test_the_command_refuses_what_it_can_not_do(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="attack-text"):
        command(tiny_model, folder, tmp_path, "--target-asr", 0.1, "--attack", "inversion")
    with pytest.raises(InvalidValue, match="still reads"):
        command(tiny_model, folder, tmp_path, "--target-asr", 0.001, "--bits", 8, "--mu", "300:400")
    with pytest.raises(InvalidValue, match="LO:HI"):
        command(tiny_model, folder, tmp_path, "--target-asr", 0.1, "--mu", "5")
