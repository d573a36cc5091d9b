"""A task trained and measured on the tiny model, by the commands; and the arithmetic of what is measured."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.projection import ProjectionConfig, build_decoder
from del_codec.table import LatentTable
from del_codec.task import Task
from del_server import lora
from del_server.cli import main
from del_server.codec import ServedCodec
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine
from del_server.training.objective import Judge
from del_server.understanding.examples import Example
from del_server.understanding.questions import read_questions
from del_server.understanding.ranking import label_scores
from del_server.understanding.study import Answers, auc_values, segments
from del_server.understanding.trainer import TaskTrainer

TASK = Task("mood", "{} =", ("a", "bc"))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def codec(tiny_codec: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_codec, tmp_path / "codec"))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "mood.tsv"
    # Of one length, which a server sees.
    lines = [f"{'zzz' if index % 2 else 'AAA'}\t{index % 2}" for index in range(60)]
    path.write_text("\n".join(["sentence\tlabel", *lines]))
    return path


def command(name: str, tiny_model: Path, codec: Path, text: Path, *options: object) -> int:
    fixed = ["--model", tiny_model, "--device", "cpu", "--codec", codec, "--task", "mood", "--text", text]
    return main([name, *map(str, [*fixed, *options])])


def test_a_task_is_trained_served_and_measured(
    tiny_model: Path, codec: Path, labelled: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--template", "{} =", "--labels", "a", "b")
    training = ("--steps", 150, "--batch", 16, "--soft-tokens", 6, "--rate", 0.1, "--mu", "50:60", *words)
    before = ServedCodec.load(codec, model)
    assert command("train-task", tiny_model, codec, labelled, *training) == 0
    served = ServedCodec.load(codec, model)
    assert served.fingerprint == before.fingerprint
    assert served.tasks["mood"].task == Task("mood", "{} =", ("a", "b"))
    assert len(served.tasks["mood"].soft_prompt) == 6
    facts = json.loads((codec / "tasks/mood/run.json").read_text())
    assert facts["examples"] == 60
    assert not torch.equal(served.tasks["mood"].soft_prompt[:4], served.soft_prompt)
    assert max(facts["final_losses"]) < 3.0  # nats; from over 5 for any of the 259 ids
    assert command("train-task", tiny_model, codec, labelled, *training) == 2
    assert "has it already" in capsys.readouterr().err

    out = tmp_path / "out.json"
    measure = ("--mu", 1, 60, "--draws", 4, "--json", out, "--paper", codec)
    assert command("evaluate-task", tiny_model, codec, labelled, *measure) == 0
    found = json.loads(out.read_text())["rows"]
    rows = {(row["method"], row["mu"]): row for row in found}
    assert len(rows) == len(found) == 3 + 2 * 2 + 1 + 2 * 2
    assert rows["always the commonest label", 0]["accuracy"]["mean"] == 0.5
    ceiling = rows["clean, soft prompt of as served", 0]
    assert ceiling["accuracy"]["mean"] > 0.9
    assert ceiling["kept"]["mean"] == 1
    weak, strong = rows["as served", 60], rows["as served", 1]
    assert weak["accuracy"]["mean"] > strong["accuracy"]["mean"]
    assert weak["auc"]["mean"] > 0.7
    assert abs(strong["auc"]["mean"] - 0.5) < 0.35
    printed = capsys.readouterr().out
    assert "mood: 60 examples, fields of at most 128 tokens" in printed
    assert "| the paper's recipe | 60 | 1 |" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", 0), "steps"),
        (("--batch", 0), "batch"),
        (("--soft-tokens", 0), "soft-tokens"),
        (("--mu", "5:1"), "LO:HI"),
        (("--field-tokens", 0), "field-tokens"),
        (("--template", "no field"), "template"),
        (("--labels", "a", "b", "--template", "{} {}"), "asks about 2"),
    ],
)
def test_a_training_that_makes_no_sense_leaves_nothing(
    tiny_model: Path,
    codec: Path,
    labelled: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    said: str,
) -> None:
    words = () if "--template" in options else ("--template", "{} =", "--labels", "a", "b")
    labels = ("--labels", "a", "b") if "--labels" not in options else ()
    assert command("train-task", tiny_model, codec, labelled, *words, *labels, *options) == 2
    assert said in capsys.readouterr().err
    assert not (codec / "tasks").exists()


def test_a_stopped_training_is_not_started_over(
    tiny_model: Path, codec: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (codec / "tasks/mood").mkdir(parents=True)
    (codec / "tasks/mood/checkpoint.safetensors").touch()
    options = ("--template", "{} =", "--labels", "a", "b")
    assert command("train-task", tiny_model, codec, labelled, *options) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"), [((), "train-task"), (("--draws", 0), "draws"), (("--count", -1), "count")]
)
def test_what_can_not_be_measured_is_said(
    tiny_model: Path,
    codec: Path,
    labelled: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    said: str,
) -> None:
    assert command("evaluate-task", tiny_model, codec, labelled, *options) == 2
    assert said in capsys.readouterr().err


async def test_labels_are_ranked_as_the_engine_ranks_them(tiny_codec: Path, tiny_model: Path, model: Any) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    questions = read_questions(tokenizer, TASK, [Example(("one",), 0), Example(("another",), 1)], 100)
    setting = NoiseSetting.from_mu(20, 16, 1)
    sent = [segments(codec.table, questions, index, setting) for index in range(2)]
    scores = label_scores(Judge(model), codec.soft_prompt, *codec.decoder.batch(sent), questions.candidates)
    engine = TransformersEngine(model, EngineConfig())
    await engine.start()
    for row, prompt in zip(scores, sent, strict=True):
        scored = await engine.score(codec.embed(prompt), [ids.tolist() for ids in questions.candidates]).result()
        assert row.tolist() == pytest.approx([sum(values) for values in scored.logprobs], abs=1e-4)
    await engine.stop()


def test_what_is_sent_is_what_a_device_sends(tiny_codec: Path, tiny_model: Path) -> None:
    table = LatentTable.load(tiny_codec / "device.safetensors")
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    pair = Task("pair", "1: {}\n2: {}", ("no", "yes"))
    questions = read_questions(tokenizer, pair, [Example(("ab", "cde"), 0)], 100)
    sent = segments(table, questions, 0, NoiseSetting.from_mu(20, 16, 1))
    assert [type(segment) for segment in sent] == [PublicSegment, PrivateSegment] * 2
    assert [segment.tokens for segment in sent] == [3, 2, 4, 3]


def test_the_area_under_the_curve_is_the_chance_of_the_right_order() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    scores = np.round(rng.normal(truth * 0.7, 1.0), 1)  # with ties
    high, low = scores[truth == 1][:, None], scores[truth == 0][None]
    area = ((high > low) + 0.5 * (high == low)).mean()
    values = auc_values(scores, truth)
    assert values.mean() == pytest.approx(area)
    # DeLong's variance, from its definition.
    placed = (high > low) + 0.5 * (high == low)
    expected = placed.mean(axis=1).var(ddof=1) / len(high) + placed.mean(axis=0).var(ddof=1) / low.shape[1]
    assert values.var(ddof=1) / len(values) == pytest.approx(expected, rel=0.02)


def test_draws_and_codecs_are_averaged_where_they_should_be() -> None:
    truth = np.array([0, 1, 1])
    right, wrong = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    answers = Answers.of(np.array([[right, right], [right, wrong]]), truth)
    assert answers.right.tolist() == [[1, 1, 1], [0.5, 0.5, 0.5]]
    assert answers.auc is not None
    assert answers.auc.mean(axis=1).tolist() == [1, 0.5]
    assert Answers.of(np.zeros((1, 1, 3, 3)), truth).auc is None


def test_the_papers_decoder_takes_tasks_too(tiny_model: Path, codec: Path, labelled: Path) -> None:
    config = ProjectionConfig(16, 32, 0.2, encoder="linear", decoder="linear", norm_cap=4.0)
    (codec / "config.json").write_text(json.dumps({"projection": asdict(config)}))
    safetensors.torch.save_file(build_decoder(config).state_dict(), codec / "decoder.safetensors")
    words = ("--template", "{} =", "--labels", "a", "b")
    training = ("--steps", 2, "--batch", 4, "--soft-tokens", 6, *words)
    assert command("train-task", tiny_model, codec, labelled, *training) == 0
    assert command("evaluate-task", tiny_model, codec, labelled, "--mu", 20, "--bits", 1, 4, "--count", 10) == 0


def test_a_codecs_lora_is_used_for_its_task_and_not_for_clean_prompts(
    tiny_model: Path, codec: Path, labelled: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = copy.deepcopy(model)
    lora.add_lora(tuned, "own", 2)
    lora.save_lora(tuned, "own", codec / "lora")
    used: set[bool] = set()
    logits = Judge.logits

    def spy(judge: Judge, soft: Any, prompt: Any, *rest: Any) -> Any:
        used.add(rest[2] is not None)
        return logits(judge, soft, prompt, *rest)

    monkeypatch.setattr(Judge, "logits", spy)
    words = ("--template", "{} =", "--labels", "a", "b")
    assert command("train-task", tiny_model, codec, labelled, "--steps", 2, "--batch", 4, *words) == 0
    assert used == {True, False}
    used.clear()
    assert command("evaluate-task", tiny_model, codec, labelled, "--mu", 20, "--count", 10) == 0
    assert used == {True, False}


def test_a_stopped_training_goes_on_where_it_stopped(
    tiny_model: Path, codec: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--steps", 6, "--batch", 4, "--template", "{} =", "--labels", "a", "b")
    whole = Path(shutil.copytree(codec, codec.parent / "whole"))
    assert command("train-task", tiny_model, whole, labelled, *options) == 0
    monkeypatch.setattr("del_server.training.loop.CHECKPOINT_SECONDS", -1.0)
    noised = TaskTrainer._noised_loss

    def fail(trainer: TaskTrainer, stage: int, step: int) -> torch.Tensor:
        return noised(trainer, stage, step) * (float("nan") if step == 3 else 1)

    with monkeypatch.context() as broken:
        broken.setattr(TaskTrainer, "_noised_loss", fail)
        assert command("train-task", tiny_model, codec, labelled, *options) == 2
    assert not ServedCodec.load(codec, AutoModelForCausalLM.from_pretrained(tiny_model)).tasks
    assert command("train-task", tiny_model, codec, labelled, *options, "--resume") == 0
    weights = "tasks/mood/adapter_model.safetensors"
    assert (codec / weights).read_bytes() == (whole / weights).read_bytes()
