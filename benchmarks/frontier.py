"""Frontier: train the codecs of a plan and evaluate them side by side: retained usefulness against attack success.

`python -m benchmarks.frontier PLAN.json --text DIR --out DIR [--seconds N]`. A plan is JSON (benchmarks/plans/): what
is trained, with which recipe, options and seeds, on which files under --text, and how groups of seeds are evaluated.
What is finished is kept and what was stopped is gone on with, so the same command again, on a machine that is lent for
minutes at a time, ends where one long run would have. The model and its text are read once for all trainings, and
trainings run one after another: several at once on one device were hardly faster (docs/log.md). Exit code 3: time ran
out before the plan was done.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from del_codec.errors import InvalidValue
from del_server.commands.train import RUN_FILE, SELF_TEXT_FILE, load_subject, make_codec, read_corpus
from del_server.training import recipe as recipes
from del_server.training.loop import TrainingStopped
from del_server.training.self_text import SelfText, sample
from del_server.training.text import read_texts
from del_server.training.train import TrainingOptions

KEYS = {"model", "text", "users", "self_text", "self_text_batch", "codecs", "evaluate"}


@dataclass(frozen=True, slots=True)
class Item:
    """One training: `name` is the group's, the folder is NAME-SEED."""

    name: str
    recipe: str
    seed: int
    options: dict[str, Any]

    def folder(self, out: Path) -> Path:
        """Where its codec goes."""
        return out / f"{self.name}-{self.seed}"


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier")
    parser.add_argument("plan", type=Path, metavar="PLAN.json")
    parser.add_argument("--text", type=Path, required=True, metavar="DIR", help="the plan's files are under it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="codecs and results")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop in time, to go on later (default: no limit)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return run(parser.parse_args(words))


def run(arguments: argparse.Namespace) -> int:
    """Do what is left of the plan; 0 when all of it is done, 3 when time ran out first."""
    ends = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    plan = read_plan(arguments.plan)
    arguments.out.mkdir(parents=True, exist_ok=True)
    left = [item for item in items(plan) if not (item.folder(arguments.out) / RUN_FILE).exists()]
    if left and not _train(plan, left, arguments, ends):
        return 3
    return 0 if _evaluate(plan, arguments, ends) else 3


def read_plan(path: Path) -> dict[str, Any]:
    """A plan. Raises InvalidValue that names the key at fault."""
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidValue("plan", str(path), f"can't be read as JSON: {error}") from None
    if not isinstance(plan, dict) or set(plan) != KEYS:
        raise InvalidValue("plan", sorted(plan), f"must have the keys {sorted(KEYS)}")
    return plan


def items(plan: dict[str, Any]) -> list[Item]:
    """The trainings of a plan, in order."""
    return [Item(c["name"], c["recipe"], seed, c.get("options", {})) for c in plan["codecs"] for seed in c["seeds"]]


def _train(plan: dict[str, Any], left: list[Item], told: argparse.Namespace, ends: float) -> bool:
    """Whether all that is left could be trained in time."""
    subject, tokenizer = load_subject(plan["model"], "auto", told.device)
    corpus = read_corpus(
        tokenizer,
        [text for name in plan["text"] for text in read_texts(told.text / name)],
        _own_text(plan, told, subject.model, tokenizer),
    )
    sources = {"text_files": [Path(name).name for name in plan["text"]], "own_samples": plan["self_text"]}
    for item in left:
        folder = item.folder(told.out)
        folder.mkdir(exist_ok=True)
        timer = threading.Timer(max(0.0, ends - time.monotonic()), os.kill, (os.getpid(), signal.SIGINT))
        if ends < float("inf"):
            timer.start()
        try:
            options = TrainingOptions(**item.options, seed=item.seed)
            make_codec(subject, recipes.load(_recipe(item.recipe, told.plan)), options, corpus, folder, sources)
        except TrainingStopped as stopped:
            print(f"{folder.name}: {stopped}", flush=True)
            return False
        finally:
            timer.cancel()
    return True


def _recipe(name: str, plan: Path) -> str:
    """A recipe of the package by name, or a file beside the plan."""
    return str(plan.parent / name) if name.endswith(".json") else name


def _own_text(plan: dict[str, Any], told: argparse.Namespace, model: Any, tokenizer: Any) -> SelfText:
    """The model's own samples, drawn once."""
    kept = told.out / SELF_TEXT_FILE
    if not kept.exists():
        users = [text for name in plan["users"] for text in read_texts(told.text / name)]
        size = plan["self_text_batch"]
        sample(model, tokenizer, plan["self_text"], seed=0, batch_size=size, user_texts=users).save(kept)
    return SelfText.load(kept)


def _evaluate(plan: dict[str, Any], told: argparse.Namespace, ends: float) -> bool:
    """Evaluate each group that has no result yet, one process a group; whether there was time for all."""
    common = plan["evaluate"]
    for name in dict.fromkeys(item.name for item in items(plan)):
        result = told.out / f"{name}.json"
        if result.exists():
            continue
        folders = [str(item.folder(told.out)) for item in items(plan) if item.name == name]
        texts = [str(told.text / text) for text in common["text"]]
        public = [str(told.text / text) for text in common["attack_text"]]
        scratch = result.with_suffix(".part")
        command = [sys.executable, "-m", "del_server.cli", "evaluate", "--model", plan["model"], "--codec", *folders]
        command += ["--text", *texts, "--attack-text", *public, "--device", told.device, "--json", str(scratch)]
        command += common["arguments"] + common.get(name, [])
        remaining = None if ends == float("inf") else max(1.0, ends - time.monotonic())
        try:
            subprocess.run(command, check=True, timeout=remaining)
        except subprocess.TimeoutExpired:
            return False
        scratch.replace(result)
    return True


if __name__ == "__main__":
    sys.exit(main())
