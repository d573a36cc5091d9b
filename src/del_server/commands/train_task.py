"""`del-server train-task`: a soft prompt for a question about private fields, into a codec's folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from del_codec.errors import InvalidValue
from del_codec.task import MARK
from del_server.codec import CONFIG_FILE, ServedCodec, read_config
from del_server.commands.train import CHECKPOINT_FILE, RUN_FILE, parse_range
from del_server.models import load_model, load_tokenizer
from del_server.tasks import TASK_FILE, save_task, task_folder
from del_server.training.objective import Judge
from del_server.training.writing import writing
from del_server.understanding.built_in import TASKS, choose
from del_server.understanding.examples import read_examples
from del_server.understanding.questions import read_questions
from del_server.understanding.study import CLEAN_FILE
from del_server.understanding.trainer import CLEAN, SERVED, TaskOptions, TaskTrainer

FIELD_TOKENS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server train-task`."""
    add = parser.add_argument
    defaults = TaskOptions(mu_low=1, mu_high=60)
    add("--codec", type=Path, required=True, metavar="DIR", help="the task is written to DIR/tasks/NAME")
    add("--task", required=True, metavar="NAME", help=f"{', '.join(TASKS)}, or one of your own")
    add("--text", type=Path, nargs="+", required=True, metavar="FILE", help="labelled: .jsonl or .tsv, also .xz")
    add("--template", help=f"public text with {MARK} for each field (default: the known task's)")
    add("--labels", nargs="+", metavar="WORD", help="answers, in the order of the file's labels from 0")
    add("--model", default="smollm2", help="smollm2, a folder or a Hugging Face id (default: smollm2)")
    add("--steps", type=int, default=defaults.steps, help="of each of two soft prompts (default: %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="examples a step (default: %(default)s)")
    add("--soft-tokens", type=int, default=defaults.soft_tokens, help="(default: %(default)s)")
    add("--rate", type=float, default=defaults.rate, help="peak learning rate (default: %(default)s)")
    add("--field-tokens", type=int, default=FIELD_TOKENS, help="longer fields are cut here (default: %(default)s)")
    add("--mu", metavar="LO:HI", help="range of noise (default: the codec's)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--dtype", default="auto", help="of the model: auto, float32, bfloat16")
    add("--device", default="auto", help="auto, cpu, cuda")
    add("--resume", action="store_true", help="go on from the checkpoint of a stopped run")


def run(arguments: argparse.Namespace) -> None:
    """Train and write the task. Raises DelError with what to do about it."""
    task = choose(arguments.task, arguments.template, arguments.labels)
    if arguments.field_tokens < 1:
        raise InvalidValue("field-tokens", arguments.field_tokens, "use at least 1")
    folder = task_folder(arguments.codec, task.name)
    if (folder / TASK_FILE).exists():
        raise InvalidValue("task", task.name, f"the codec has it already: remove {folder}, or use another name")
    if (folder / CHECKPOINT_FILE).exists() and not arguments.resume:
        raise InvalidValue("task", task.name, f"{folder} holds a stopped run: add --resume, or remove it")
    examples = [example for path in arguments.text for example in read_examples(path, len(task.labels))]
    model = load_model(arguments.model, arguments.dtype, arguments.device)
    codec = ServedCodec.load(arguments.codec, model)
    options = _options(arguments, codec)
    tokenizer = load_tokenizer(str(arguments.codec))
    questions = read_questions(tokenizer, task, examples, arguments.field_tokens)
    words = tokenizer.encode(" ".join([task.template.replace(MARK, ""), *task.labels]), add_special_tokens=False).ids
    trainer = TaskTrainer(
        Judge(model),
        codec,
        read_config(arguments.codec / CONFIG_FILE),
        questions,
        np.array(words, dtype=np.int64),
        options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    losses = trainer.run(folder / CHECKPOINT_FILE)
    clean = {CLEAN: trainer.soft[CLEAN].detach().to("cpu", torch.float16).contiguous()}
    facts = {
        "model": arguments.model,
        "options": asdict(options),
        "field_tokens": arguments.field_tokens,
        "text_files": [path.name for path in arguments.text],
        "examples": len(examples),
        "final_losses": losses,
    }
    with writing(folder, "free some space; --resume goes on from the latest checkpoint, where one was kept"):
        safetensors.torch.save_file(clean, folder / CLEAN_FILE)
        (folder / RUN_FILE).write_text(json.dumps(facts, indent=2) + "\n")
        save_task(arguments.codec, task, trainer.soft[SERVED], codec.table.spec.model)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    print(f"task written to {folder}; now: del-server evaluate-task --codec {arguments.codec} --task {task.name} ...")


def _options(arguments: argparse.Namespace, codec: ServedCodec) -> TaskOptions:
    spec = codec.table.spec
    own = (spec.mu_milli_min / 1000, spec.mu_milli_max / 1000)
    low, high = parse_range(arguments.mu) if arguments.mu else own
    return TaskOptions(
        mu_low=low,
        mu_high=high,
        steps=arguments.steps,
        batch=arguments.batch,
        soft_tokens=arguments.soft_tokens,
        rate=arguments.rate,
        seed=arguments.seed,
    )
