"""The loop of training: it can be stopped at any moment and goes on as if it had not been."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from del_codec.errors import ArtifactError
from del_server.training import loop
from del_server.training.loop import Stage, TrainingStopped, run

STEPS = 20


class Model(nn.Module):
    """Two parameters to be learned one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(3))
        self.second = nn.Parameter(torch.zeros(2))


def stages(model: Model, interruption: Callable[[int, int], None] = lambda stage, step: None) -> list[Stage]:
    def loss(stage: int, step: int) -> Tensor:
        interruption(stage, step)
        noise = torch.randn(3, generator=torch.Generator().manual_seed(1000 * stage + step))
        return ((model.first - 1 + noise / 10) ** 2).sum() + ((model.second - model.first[:2] + 2) ** 2).sum()

    return [
        Stage("first", [([model.first], 0.1)], STEPS, loss),
        Stage("second", [([model.second], 0.1)], STEPS, loss),
    ]


def ctrl_c_at(stage: int, step: int) -> Callable[[int, int], None]:
    def interruption(*place: int) -> None:
        if place == (stage, step):
            signal.raise_signal(signal.SIGINT)

    return interruption


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


@pytest.fixture
def whole() -> tuple[Model, list[float]]:
    """An uninterrupted run."""
    model = Model()
    return model, run(stages(model), model, None)


def test_every_stage_learns_its_own_parameters(whole: tuple[Model, list[float]]) -> None:
    model, losses = whole
    assert len(losses) == 2
    assert torch.allclose(model.first, torch.ones(3), atol=0.3)
    assert torch.allclose(model.second, model.first[:2] - 2, atol=0.5)
    untouched = Model()
    run(stages(untouched)[:1], untouched, None)
    assert torch.equal(untouched.second, torch.zeros(2))


@pytest.mark.parametrize(("stage", "step"), [(0, 0), (0, 7), (0, STEPS - 1), (1, 0), (1, 13)])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    checkpoint: Path, whole: tuple[Model, list[float]], stage: int, step: int
) -> None:
    stopped = Model()
    with pytest.raises(TrainingStopped, match="--resume goes on from there"):
        run(stages(stopped, ctrl_c_at(stage, step)), stopped, checkpoint)
    resumed = Model()
    losses = run(stages(resumed), resumed, checkpoint)
    assert torch.equal(resumed.first, whole[0].first)
    assert torch.equal(resumed.second, whole[0].second)
    assert len(losses) == 2
    assert losses[0] == pytest.approx(whole[1][0], rel=0.5)


def test_no_update_is_done_twice_or_by_half(checkpoint: Path, whole: tuple[Model, list[float]]) -> None:
    updates = 0

    def ctrl_c_at_the_end_of_the_eighth(*_: object) -> None:
        nonlocal updates
        updates += 1
        if updates == 8:
            signal.raise_signal(signal.SIGINT)

    stopped = Model()
    hook = register_optimizer_step_post_hook(ctrl_c_at_the_end_of_the_eighth)
    try:
        with pytest.raises(TrainingStopped, match="at step 8"):
            run(stages(stopped), stopped, checkpoint)
    finally:
        hook.remove()
    resumed = Model()
    run(stages(resumed), resumed, checkpoint)
    assert torch.equal(resumed.first, whole[0].first)
    assert torch.equal(resumed.second, whole[0].second)


def test_a_second_ctrl_c_ends_at_once(checkpoint: Path) -> None:
    def twice(stage: int, step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model = Model()
    with pytest.raises(KeyboardInterrupt):
        run(stages(model, twice), model, checkpoint)
    assert not checkpoint.exists()


def test_ctrl_c_is_the_callers_again_after_a_run() -> None:
    model, before = Model(), signal.getsignal(signal.SIGINT)
    run(stages(model), model, None)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(TrainingStopped):
        run(stages(model, ctrl_c_at(0, 0)), model, None)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_is_kept_every_so_often(
    checkpoint: Path, whole: tuple[Model, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def crash(stage: int, step: int) -> None:
        if (stage, step) == (1, 5):
            raise RuntimeError("the machine went away")

    crashed = Model()
    with pytest.raises(RuntimeError):
        run(stages(crashed, crash), crashed, checkpoint)
    resumed = Model()
    losses = run(stages(resumed), resumed, checkpoint)
    assert torch.equal(resumed.second, whole[0].second)
    assert losses == pytest.approx(whole[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    checkpoint: Path, whole: tuple[Model, list[float]], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    model = Model()
    broken = stages(model)
    sound = broken[0].loss
    broken[0] = Stage("first", broken[0].groups, STEPS, lambda *at: sound(*at) * (bad if at[1] == 6 else 1))
    with pytest.raises(TrainingStopped, match=f"first: loss {bad}.* at step 6; the last good checkpoint is kept"):
        run(broken, model, checkpoint)
    assert model.first.isfinite().all()
    resumed = Model()
    run(stages(resumed), resumed, checkpoint)
    assert torch.equal(resumed.second, whole[0].second)


def test_a_gradient_that_is_not_finite_stops_too(checkpoint: Path) -> None:
    model = Model()
    # The square root's value at zero is finite, its slope is not.
    stage = Stage("first", [([model.first], 0.1)], STEPS, lambda *_: model.first.sqrt().sum())
    with pytest.raises(TrainingStopped, match=r"loss 0\.0, gradient norm (inf|nan)"):
        run([stage], model, checkpoint)
    assert torch.equal(model.first, torch.zeros(3))


def stopped_run(checkpoint: Path) -> None:
    model = Model()
    with pytest.raises(TrainingStopped):
        run(stages(model, ctrl_c_at(0, 3)), model, checkpoint)


def test_a_checkpoint_of_another_plan_is_refused(checkpoint: Path) -> None:
    stopped_run(checkpoint)
    model = Model()
    others = [Stage(f"other {s.name}", s.groups, s.steps, s.loss) for s in stages(model)]
    longer = [Stage(s.name, s.groups, s.steps + 1, s.loss) for s in stages(model)]
    for plan in (others, longer, stages(model)[:1]):
        with pytest.raises(ArtifactError, match="is not a checkpoint of this recipe"):
            run(plan, model, checkpoint)
    assert torch.equal(model.first, torch.zeros(3))


def test_a_checkpoint_of_other_weights_is_refused(checkpoint: Path) -> None:
    stopped_run(checkpoint)
    model = Model()
    model.second = nn.Parameter(torch.zeros(5))
    with pytest.raises(ArtifactError, match="is not a checkpoint of this recipe"):
        run(stages(model), model, checkpoint)


@pytest.mark.parametrize("damage", [b"", b"\0" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_damaged_checkpoint_is_refused(checkpoint: Path, damage: bytes) -> None:
    checkpoint.write_bytes(damage)
    model = Model()
    with pytest.raises(ArtifactError, match="is not a checkpoint of this recipe"):
        run(stages(model), model, checkpoint)
