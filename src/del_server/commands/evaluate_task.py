"""`del-server evaluate-task`: how well a task is answered from private fields, on labelled texts it has not seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from del_codec.errors import InvalidValue
from del_server.commands.train_task import FIELD_TOKENS
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.report import without_nan
from del_server.models import load_model, load_tokenizer
from del_server.understanding.examples import read_examples
from del_server.understanding.questions import read_questions
from del_server.understanding.study import Row, TaskStudy, rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server evaluate-task`."""
    add = parser.add_argument
    add("--codec", type=Path, nargs="+", required=True, metavar="DIR", help="several: trained alike, other seeds")
    add("--paper", type=Path, nargs="+", default=[], metavar="DIR", help="codecs of the paper's recipe, to compare")
    add("--task", required=True, metavar="NAME", help="a task that these codecs have")
    add("--text", type=Path, nargs="+", required=True, metavar="FILE", help="labelled: .jsonl or .tsv, also .xz")
    add("--model", default="smollm2", help="smollm2, a folder or a Hugging Face id (default: smollm2)")
    add("--mu", type=float, nargs="+", default=[5.0, 10.0, 20.0, 40.0])
    add("--bits", type=int, nargs="+", default=[1])
    add("--count", type=int, default=0, help="so many examples, evenly spaced (default: all)")
    add("--draws", type=int, default=1, help="releases of each example at each setting (default: %(default)s)")
    add("--field-tokens", type=int, default=FIELD_TOKENS, help="longer fields are cut here (default: %(default)s)")
    add("--batch", type=int, default=64, help="prompts at once (default: %(default)s)")
    add("--json", type=Path, metavar="OUT", help="write everything measured to OUT")
    add("--dtype", default="auto", help="of the model: auto, float32, bfloat16")
    add("--device", default="auto", help="auto, cpu, cuda")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, and write what was asked for. Raises DelError with what to do about it."""
    for name, least in (("count", 0), ("draws", 1), ("field_tokens", 1), ("batch", 1)):
        if getattr(arguments, name) < least:
            raise InvalidValue(name.replace("_", "-"), getattr(arguments, name), f"use at least {least}")
    model = load_model(arguments.model, arguments.dtype, arguments.device)
    settings = [(mu, bits) for bits in arguments.bits for mu in arguments.mu]
    found: list[Row] = []
    count = 0
    for name, folders in (("as served", arguments.codec), ("the paper's recipe", arguments.paper)):
        if not folders:
            continue
        study = TaskStudy(model, folders, arguments.task, batch=arguments.batch, draws=arguments.draws)
        examples = [e for path in arguments.text for e in read_examples(path, len(study.task.labels))]
        count = min(arguments.count or len(examples), len(examples))
        examples = [examples[int(at)] for at in np.linspace(0, len(examples) - 1, count)]
        tokenizer = load_tokenizer(str(folders[0]))
        questions = read_questions(tokenizer, study.task, examples, arguments.field_tokens)
        measured = list(rows(study, questions, settings, name))
        found += measured if not found else measured[2:]  # the first two are the same for all codecs
    print(f"{arguments.task}: {count} examples, fields of at most {arguments.field_tokens} tokens")
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(found, arguments, count), indent=1) + "\n")


def table(found: list[Row]) -> str:
    """Rows as a Markdown table."""
    lines = []
    for row in found:
        setting = (f"{row.mu:g}", str(row.bits)) if row.bits else ("-", "-")
        lines.append((row.method, *setting, str(row.accuracy), str(row.auc or "-"), str(row.kept or "-")))
    return markdown_table(["method", "mu", "bits", "accuracy", "AUC", "kept"], lines)


def to_json(found: list[Row], arguments: argparse.Namespace, count: int) -> dict[str, Any]:
    """Everything measured, for machines."""
    return {
        "task": arguments.task,
        "texts": [path.name for path in arguments.text],
        "examples": count,
        "field_tokens": arguments.field_tokens,
        "draws": arguments.draws,
        "codecs": {"as served": len(arguments.codec), "the paper's recipe": len(arguments.paper)},
        "rows": without_nan([dataclasses.asdict(row) for row in found]),
    }
