"""Frontier: train the codecs of a plan and evaluate them side by side: retained usefulness against attack success.

`python -m benchmarks.frontier PLAN.json --text DIR --out DIR [--seconds N]`. A plan is JSON (benchmarks/plans/): what
is trained, with which recipe, options and seeds, on which files under --text, how groups of seeds are evaluated, and
which questions about private texts are put to some of them. What is finished is kept and what was stopped is gone on
with, so the same command again, on a machine that is lent for minutes at a time, ends where one long run would have.
The model and its text are read once for all trainings, and trainings run one after another: several at once on one
device were hardly faster (docs/log.md). Evaluations, which leave a device idle in other places, run beside them, each
as soon as its codecs are there. Exit code 3: time ran out before the plan was done.
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
from del_codec.shipped import codec_folders
from del_server.commands.train import RUN_FILE, SELF_TEXT_FILE, load_subject, make_codec, read_corpus
from del_server.training import recipe as recipes
from del_server.training.loop import TrainingStopped
from del_server.training.self_text import SelfText, sample
from del_server.training.text import read_texts
from del_server.training.train import TrainingOptions

KEYS = {"model", "text", "users", "self_text", "self_text_batch", "codecs", "evaluate", "understanding"}
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Item:
    """One training: `name` is the group's, the folder is NAME-SEED. references: the codec whose floor and ceiling it
    takes, of the plan or shipped; "" to train its own."""

    name: str
    recipe: str
    seed: int
    options: dict[str, Any]
    references: str = ""

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
    jobs = _Beside(measurements(plan, arguments), ends)
    jobs.start()
    left = [item for item in items(plan) if not (item.folder(arguments.out) / RUN_FILE).exists()]
    trained = False
    try:
        trained = not left or _train(plan, left, arguments, ends)
    finally:
        jobs.no_more.set()
        jobs.join()
    if jobs.failed:
        raise SystemExit(f"failed: {' '.join(jobs.failed)}")
    return 0 if trained and jobs.done else 3


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
    return [
        Item(c["name"], c["recipe"], seed, c.get("options", {}), c.get("references", ""))
        for c in plan["codecs"]
        for seed in c["seeds"]
    ]


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
        try:
            if ends < float("inf"):
                timer.start()
            options = TrainingOptions(**item.options, seed=item.seed)
            recipe, references = recipes.load(_recipe(item.recipe, told.plan)), _references(item, told.out)
            make_codec(subject, recipe, options, corpus, folder, sources, references)
        except (TrainingStopped, KeyboardInterrupt) as stopped:  # time may be up before the training listens
            print(f"{folder.name}: {str(stopped) or 'stopped'}", flush=True)
            return False
        finally:
            timer.cancel()
    return True


def _recipe(name: str, plan: Path) -> str:
    """A recipe of the package by name, or a file beside the plan."""
    return str(plan.parent / name) if name.endswith(".json") else name


def _references(item: Item, out: Path) -> Path | None:
    """The folder that an item's floor and ceiling come from. Raises InvalidValue for one that isn't there."""
    if not item.references:
        return None
    known = {folder.name: folder for folder in (*codec_folders(), *(path.parent for path in out.glob(f"*/{RUN_FILE}")))}
    if item.references not in known:
        raise InvalidValue("references", item.references, f"use one of {', '.join(sorted(known))}")
    return known[item.references]


def _own_text(plan: dict[str, Any], told: argparse.Namespace, model: Any, tokenizer: Any) -> SelfText:
    """The model's own samples, drawn once."""
    kept = told.out / SELF_TEXT_FILE
    if not kept.exists():
        users = [text for name in plan["users"] for text in read_texts(told.text / name)]
        size = plan["self_text_batch"]
        sample(model, tokenizer, plan["self_text"], seed=0, batch_size=size, user_texts=users).save(kept)
    return SelfText.load(kept)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A command that leaves `result` behind, once the codecs in `needs` are there."""

    needs: tuple[Path, ...]
    result: Path
    command: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether all its codecs are there."""
        return all((folder / RUN_FILE).exists() for folder in self.needs)


def measurements(plan: dict[str, Any], told: argparse.Namespace) -> list[Measurement]:
    """All evaluations of a plan: of each group of seeds, then its questions. Those that have a result are left out."""
    found = [_evaluation(plan, told, name) for name in dict.fromkeys(item.name for item in items(plan))]
    known = {item.folder(told.out).name for item in items(plan)}
    asked = {codec for question in plan["understanding"] for codec in question["codecs"] + question["paper"]}
    if not asked <= known:
        raise InvalidValue("understanding", sorted(asked - known), f"use the plan's own codecs: {sorted(known)}")
    for question in plan["understanding"]:
        trained = [_task_training(plan, told, question, codec) for codec in question["codecs"] + question["paper"]]
        found += [*trained, _task_evaluation(plan, told, question)]
    return [job for job in found if not job.result.exists()]


def _evaluation(plan: dict[str, Any], told: argparse.Namespace, name: str) -> Measurement:
    common = plan["evaluate"]
    result = told.out / f"{name}.json"
    folders = [item.folder(told.out) for item in items(plan) if item.name == name]
    words = ["evaluate", "--codec", *folders, "--text", *(told.text / text for text in common["text"])]
    words += ["--attack-text", *(told.text / text for text in common["attack_text"])]
    words += [*common["arguments"], *common.get(name, [])]
    return Measurement(tuple(folders), result, _command(plan, told, words, result))


def _task_training(plan: dict[str, Any], told: argparse.Namespace, question: dict[str, Any], codec: str) -> Measurement:
    folder = told.out / codec
    words = ["train-task", "--codec", folder, "--task", question["task"], "--resume", *question["arguments"]]
    words += ["--text", *(told.text / name for name in question["train"])]
    result = folder / "tasks" / question["task"] / RUN_FILE
    return Measurement((folder,), result, _command(plan, told, words, None))


def _task_evaluation(plan: dict[str, Any], told: argparse.Namespace, question: dict[str, Any]) -> Measurement:
    folders, papers = ([told.out / codec for codec in question[key]] for key in ("codecs", "paper"))
    result = told.out / f"{question['task']}.json"
    words = ["evaluate-task", "--codec", *folders, "--task", question["task"]]
    words += ["--text", *(told.text / name for name in question["test"])]
    words += [*(["--paper", *papers] if papers else []), *question["evaluate"]]
    return Measurement((*folders, *papers), result, _command(plan, told, words, result))


def _command(
    plan: dict[str, Any], told: argparse.Namespace, words: Sequence[object], result: Path | None
) -> tuple[str, ...]:
    command = [sys.executable, "-m", "del_server.cli", *map(str, words), "--model", plan["model"]]
    command += ["--device", told.device]
    return (*command, "--json", str(_scratch(result))) if result else tuple(command)


def _scratch(result: Path) -> Path:
    return result.with_suffix(".part")


class _Beside(threading.Thread):
    """Measurements one after another, each as soon as it can be, until all are done, time is up or none can follow."""

    def __init__(self, jobs: Sequence[Measurement], ends: float) -> None:
        super().__init__(name="measurements", daemon=True)
        self._jobs, self._ends = list(jobs), ends
        self.no_more = threading.Event()
        self.failed: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every measurement has its result."""
        return not self._jobs

    def run(self) -> None:
        """In the thread: measure. no_more: no further codec will come, so what isn't ready never will be."""
        while self._jobs and not self.failed and time.monotonic() < self._ends:
            last = self.no_more.is_set()  # asked first: the last codec may come between the two
            ready = next((job for job in self._jobs if job.ready), None)
            if ready is not None:
                if self._measure(ready):
                    self._jobs.remove(ready)
            elif last:
                return
            else:
                self.no_more.wait(POLL_SECONDS)

    def _measure(self, job: Measurement) -> bool:
        """Whether there was time for it."""
        remaining = None if self._ends == float("inf") else max(1.0, self._ends - time.monotonic())
        try:
            subprocess.run(job.command, check=True, timeout=remaining)
        except subprocess.TimeoutExpired:
            return False
        except subprocess.CalledProcessError:
            self.failed = job.command
            return False
        if _scratch(job.result).exists():
            _scratch(job.result).replace(job.result)
        return True


if __name__ == "__main__":
    sys.exit(main())
