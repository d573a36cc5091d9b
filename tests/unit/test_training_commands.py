"""`del-server train` end to end on a tiny model: recipes learn, can be stopped, and leave codecs that serve."""

from __future__ import annotations

import argparse
import json
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from del_codec.encode import encode
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.frame import PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.projection import ContextDecoder, LinearDecoder
from del_server import cli
from del_server.codec import ServedCodec
from del_server.commands import train
from del_server.training import loop
from del_server.training import recipe as recipes
from del_server.training.loop import Stage, TrainingStopped
from del_server.training.objective import nll
from del_server.training.self_text import SelfText
from del_server.training.text import ChatSample
from del_server.training.train import Trainer

WEIGHTS = [
    "config.json",
    "decoder.safetensors",
    "device.safetensors",
    "references.safetensors",
    "soft_prompt/adapter_model.safetensors",
]
SMALL = ["--dim", "8", "--batch", "8", "--steps", "6", "--reference-steps", "3", "--mu", "5:60"]


@pytest.fixture(autouse=True)
def _float32_as_it_was() -> Iterator[None]:
    """Training chooses the precision of products for the whole process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Words in a language of two letters: easy to predict, and from a private prompt too."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{'ab' * 10} {'ba' * 10} " for _ in range(100)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codec"


def run(model: Path, out: Path, *arguments: object) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = ["--model", model, "--out", out, *SMALL, *arguments]
    train.run(parser.parse_args([str(word) for word in words]))


def load(model: Path, out: Path) -> ServedCodec:
    from transformers import AutoModelForCausalLM

    return ServedCodec.load(out, AutoModelForCausalLM.from_pretrained(model))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The loss of every step, by stage."""
    seen: dict[str, list[float]] = {}

    def watched(stage: Stage) -> Callable[[int, int], Tensor]:
        def loss(index: int, step: int) -> Tensor:
            value = stage.loss(index, step)
            seen.setdefault(stage.name, []).append(float(value.detach()))
            return value

        return loss

    def run_watched(stages: Sequence[Stage], *arguments: Any) -> list[float]:
        return loop.run([replace(stage, loss=watched(stage)) for stage in stages], *arguments)

    monkeypatch.setattr("del_server.training.train.run", run_watched)
    return seen


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_learns_and_leaves_a_codec_that_serves(
    tiny_model: Path, text: Path, out: Path, losses: dict[str, list[float]], recipe: str
) -> None:
    run(tiny_model, out, "--text", text, "--recipe", recipe, "--steps", 40, "--reference-steps", 20)
    assert [stage.split()[0] for stage in losses][-2:] == ["floor", "ceiling"]
    for stage, values in losses.items():
        assert np.mean(values[-5:]) < 0.95 * np.mean(values[:5]), stage
    codec = load(tiny_model, out)
    chosen = recipes.load(recipe)
    assert type(codec.decoder.network) is (LinearDecoder if chosen.decoder == "linear" else ContextDecoder)
    assert codec.soft_tokens == chosen.soft_tokens
    spec = codec.table.spec
    assert (spec.dim, spec.mu_milli_min, spec.mu_milli_max) == (8, 5000, 60_000)
    private = encode(codec.table, [70, 71, 72], NoiseSetting.from_mu(20, spec.dim, 1))
    embedded = codec.embed([PublicSegment((1, 2)), private])
    assert embedded.shape == (chosen.soft_tokens + 5, 32)
    assert embedded.isfinite().all()
    facts = json.loads((out / "run.json").read_text())
    assert facts["recipe"]["name"] == recipe
    assert len(facts["final_losses"]) == len(losses)
    assert not (out / train.CHECKPOINT_FILE).exists()


def test_floor_and_ceiling_of_another_codec_are_taken_as_they_are(
    tiny_model: Path, text: Path, out: Path, tmp_path: Path, losses: dict[str, list[float]]
) -> None:
    first = tmp_path / "first"
    run(tiny_model, first, "--text", text, "--recipe", "joint", "--steps", 2, "--reference-steps", 2)
    losses.clear()
    run(tiny_model, out, "--text", text, "--recipe", "joint", "--steps", 2, "--seed", 1, "--references", first)
    assert not any(stage.startswith(("floor", "ceiling")) for stage in losses)
    assert (out / "references.safetensors").read_bytes() == (first / "references.safetensors").read_bytes()
    assert json.loads((out / "run.json").read_text())["references"] == "first"


def test_references_of_another_model_or_beside_a_lora_are_refused(
    tiny_model: Path, text: Path, out: Path, tmp_path: Path, tiny_codec: Path
) -> None:
    from del_codec.shipped import codec_folders

    with pytest.raises(InvalidValue, match="references"):
        run(tiny_model, out, "--text", text, "--recipe", "joint", "--references", codec_folders()[0])
    with pytest.raises(InvalidValue, match=r"references.*--lora"):
        run(tiny_model, tmp_path / "o", "--text", text, "--recipe", "joint", "--lora", 2, "--references", tiny_codec)


@torch.no_grad()
def test_the_floor_sees_no_private_token_and_the_ceiling_sees_all(
    tiny_model: Path, text: Path, out: Path, losses: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Trainer] = []
    monkeypatch.setattr(Trainer, "save", lambda self, folder: trainers.append(self))
    with torch.enable_grad():
        run(tiny_model, out, "--text", text, "--recipe", "paper", "--batch", 64)
    (trainer,) = trainers
    embed = trainer.judge.embeddings
    start = embed[torch.from_numpy(trainer.curriculum.corpus.stream[:100])]

    def by_hand(stage: int, private_too: bool) -> float:
        batch = trainer.curriculum.lesson(stage, 0).batch
        values = []
        for prompt, private, target in zip(batch.prompt, batch.private, batch.target, strict=True):
            seen = prompt if private_too else prompt[~private]
            before = torch.cat([start, embed[torch.from_numpy(seen)]])
            ids = torch.from_numpy(target)
            logits = trainer.judge.model(inputs_embeds=torch.cat([before, embed[ids]]).unsqueeze(0)).logits[0]
            values.append(float(F.cross_entropy(logits[len(before) - 1 : -1], ids)))
        return float(np.mean(values))

    assert (~trainer.curriculum.lesson(2, 0).batch.private).any()
    assert losses["floor (no prompt)"][0] == pytest.approx(by_hand(2, private_too=False), rel=1e-4)
    assert losses["ceiling (clean prompt)"][0] == pytest.approx(by_hand(3, private_too=True), rel=1e-4)


def weights(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in WEIGHTS}


@pytest.mark.parametrize(
    ("recipe", "at"), [("joint", 0), ("joint", 4), ("joint", 7), ("paper", 2), ("paper", 3), ("paper", 10)]
)
def test_a_stopped_training_resumes_to_the_very_same_codec(
    tiny_model: Path, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, at: int
) -> None:
    arguments = ["--text", text, "--recipe", recipe]
    run(tiny_model, out / "whole", *arguments)
    steps = 0

    def ctrl_c(*of: Any) -> Tensor:
        nonlocal steps
        if steps == at:
            signal.raise_signal(signal.SIGINT)
        steps += 1
        return nll(*of)

    with monkeypatch.context() as patched:
        patched.setattr("del_server.training.losses.nll", ctrl_c)
        with pytest.raises(TrainingStopped, match="--resume goes on from there"):
            run(tiny_model, out / "stopped", *arguments)
    assert (out / "stopped" / train.CHECKPOINT_FILE).exists()
    with pytest.raises(InvalidValue, match="holds a stopped run: add --resume"):
        run(tiny_model, out / "stopped", *arguments)
    run(tiny_model, out / "stopped", *arguments, "--resume")
    assert weights(out / "stopped") == weights(out / "whole")
    facts = [json.loads((out / name / "run.json").read_text()) for name in ("whole", "stopped")]
    assert len(facts[0]["final_losses"]) == len(facts[1]["final_losses"])


def test_another_seed_is_another_codec(tiny_model: Path, text: Path, out: Path) -> None:
    run(tiny_model, out / "one", "--text", text)
    run(tiny_model, out / "same", "--text", text)
    run(tiny_model, out / "other", "--text", text, "--seed", 1)
    assert weights(out / "one") == weights(out / "same")
    assert weights(out / "one") != weights(out / "other")


@pytest.fixture
def stopped(tiny_model: Path, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a training of the joint recipe that was stopped."""

    def ctrl_c(*of: Any) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return nll(*of)

    with monkeypatch.context() as patched:
        patched.setattr("del_server.training.losses.nll", ctrl_c)
        with pytest.raises(TrainingStopped):
            run(tiny_model, out, "--text", text)
    return out


def test_a_checkpoint_of_another_recipe_is_refused(tiny_model: Path, text: Path, stopped: Path) -> None:
    own = stopped.parent / "own.json"
    # Of the very same shapes: only its name and its loss are others.
    shipped = Path(recipes.__file__).parent / "recipes" / "joint.json"
    own.write_text(json.dumps({**json.loads(shipped.read_text()), "kl_weight": 0.25}))
    before = (stopped / train.CHECKPOINT_FILE).read_bytes()
    for arguments in (["--recipe", "paper"], ["--recipe", own], ["--steps", "7"], ["--dim", "16"]):
        with pytest.raises(ArtifactError, match="is not a checkpoint of this recipe"):
            run(tiny_model, stopped, "--text", text, *arguments, "--resume")
    assert (stopped / train.CHECKPOINT_FILE).read_bytes() == before


def test_a_folder_with_something_in_it_is_left_alone(tiny_model: Path, text: Path, out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InvalidValue, match="is not empty: name another folder"):
        run(tiny_model, out, "--text", text)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    with pytest.raises(InvalidValue, match="is a file; name a folder"):
        run(tiny_model, out / "notes.txt", "--text", text)


def test_a_finished_codec_is_not_trained_over(tiny_model: Path, text: Path, out: Path) -> None:
    run(tiny_model, out, "--text", text)
    before = weights(out)
    for arguments in ([], ["--resume"], ["--resume", "--seed", "1"]):
        with pytest.raises(InvalidValue, match="is not empty: name another folder"):
            run(tiny_model, out, "--text", text, *arguments)
    assert weights(out) == before


@pytest.mark.parametrize(("characters", "recipe"), [(0, "joint"), (10, "joint"), (10, "paper"), (94, "joint")])
def test_text_too_short_is_refused_before_training(
    tiny_model: Path, tmp_path: Path, out: Path, losses: dict[str, list[float]], characters: int, recipe: str
) -> None:
    # A byte is a token, a separator follows each file, and a window is 64 + 32 tokens.
    short = tmp_path / "short.txt"
    short.write_text("x" * characters)
    with pytest.raises(InvalidValue, match=f"text is '{characters + 1} tokens': give at least 96 tokens of text"):
        run(tiny_model, out, "--text", short, "--recipe", recipe)
    assert not losses
    (tmp_path / "enough.txt").write_text("x" * 95)
    run(tiny_model, out, "--text", tmp_path / "enough.txt", "--recipe", recipe)


def test_no_text_at_all_is_refused(tiny_model: Path, out: Path) -> None:
    with pytest.raises(InvalidValue, match="give text files or samples of the model's own"):
        run(tiny_model, out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mu", "5"], "mu is '5': use LO:HI"),
        (["--mu", "a:b"], "use LO:HI"),
        (["--mu", "60:5"], "use LO:HI with 0 < LO <= HI"),
        (["--mu", "0:5"], "use LO:HI with 0 < LO <= HI"),
        (["--mu", "nan:5"], "use LO:HI with 0 < LO <= HI"),
        (["--mu", "5:inf"], "use LO:HI with 0 < LO <= HI"),
        (["--mu", "0.0001:5"], "mu_milli_min is 0"),
        (["--dim", "0"], "dim is 0"),
        (["--dim", "2000"], "dim is 2000"),
        (["--steps", "0"], "steps is 0"),
        (["--reference-steps", "0"], "reference-steps is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", str(1 << 80)], "seed is 1208925819614629174706176"),
        (["--chat-share", "2"], "chat_share is 2"),
        (["--chat-share", "nan"], "chat_share is nan"),
        (["--recipe", "nosuch"], "recipe is 'nosuch': use one of"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_training(
    tiny_model: Path, text: Path, out: Path, losses: dict[str, list[float]], arguments: list[str], named: str
) -> None:
    with pytest.raises(InvalidValue, match=named):
        run(tiny_model, out, "--text", text, *arguments)
    assert not losses


@pytest.mark.parametrize("argument", ["--text", "--self-text-file"])
def test_a_file_that_is_not_there_is_named(tiny_model: Path, text: Path, out: Path, argument: str) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.txt"):
        run(tiny_model, out, "--text", text, argument, out.parent / "missing.txt")


def test_the_command_line_prints_one_line_and_exits_2(
    tiny_model: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("too short")
    words = ["train", "--model", str(tiny_model), "--text", str(tmp_path / "short.txt"), "--out", str(out)]
    assert cli.main(words) == cli.BAD_INPUT
    assert "del-server: text is '10 tokens': give at least 96 tokens of text\n" in capsys.readouterr().err


def test_chat_turns_alone_are_text_enough(
    tiny_model: Path, out: Path, tmp_path: Path, losses: dict[str, list[float]]
) -> None:
    turn = ChatSample(*(np.array(ids) for ids in ([1, 90, 91], [70, 71, 72], [2, 92], [73, 74, 75, 76])))
    SelfText([], [turn] * 3).save(tmp_path / "turns.safetensors")
    run(tiny_model, out, "--self-text-file", tmp_path / "turns.safetensors", "--steps", 30)
    (stage, *_) = losses.values()
    assert np.mean(stage[-5:]) < 0.95 * np.mean(stage[:5])
    counts = load(tiny_model, out).table.unigram_counts
    assert {int(i): int(counts[i]) for i in counts.nonzero()[0]} == dict.fromkeys(range(70, 77), 3)


def test_the_models_own_samples_and_users_words_are_text_enough(tiny_model: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("hello")
    arguments = ["--self-text", 8, "--self-text-batch", 3, "--users", tmp_path / "users.txt", "--steps", 1]
    run(tiny_model, out / "one", *arguments)
    own = SelfText.load(out / "one" / train.SELF_TEXT_FILE)
    assert own.documents
    assert all(32 <= len(document) <= 128 for document in own.documents)
    tokens = np.concatenate([*own.documents, *(turn.answer for turn in own.turns)])
    assert 0 <= tokens.min() <= tokens.max() < 259
    assert 2 not in tokens  # the end of sequence
    hello = [turn for turn in own.turns if len(turn.words) == 5]
    assert len(hello) == 1
    before, after = hello[0].before, hello[0].after
    assert (before[0], after[0]) == (1, 2)
    run(tiny_model, out / "two", *arguments)
    again = SelfText.load(out / "two" / train.SELF_TEXT_FILE)
    assert [d.tolist() for d in again.documents] == [d.tolist() for d in own.documents]


def test_a_long_text_is_watched_on_its_end(
    tiny_model: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.txt"
    long.write_text("ab" * 32_000)
    run(tiny_model, out, "--text", long, "--mu", "5:15", "--steps", "5")
    reports = re.findall(
        r"step (\d): mu 5 retained \S+ MAP (\S+), mu 10 retained \S+ MAP (\S+)\n", capsys.readouterr().out
    )
    assert [step for step, *_ in reports] == list("12345")
    assert all(0 <= float(share) <= 1 for _, *shares in reports for share in shares)
    held_out = 32 * (64 + 32)
    assert load(tiny_model, out).table.unigram_counts.sum() == 64_000 + 1 - held_out
