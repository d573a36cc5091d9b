"""Labelled texts from files, in the formats that the usual sets come in. Knows nothing of tokens or tasks' words.

A file is .jsonl (also .xz) or a table of tab-separated columns with a header. Columns are known by name: one or two
texts (sentence, text, review, sentence1 and sentence2, question1 and question2, MRPC's #1 String and #2 String) and the
label (label, is_duplicate, MRPC's Quality), a number from 0 or QQP's words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from del_codec.errors import ArtifactError
from del_server.training.text import read_file

_FIRST = ("sentence", "text", "review", "sentence1", "question1", "#1 String")
_SECOND = ("sentence2", "question2", "#2 String")
_LABEL = ("label", "is_duplicate", "Quality")
_WORDS = {"not duplicate": 0, "duplicate": 1}


@dataclass(frozen=True, slots=True)
class Example:
    """fields: one or two texts. label: the index of the right answer."""

    fields: tuple[str, ...]
    label: int


def read_examples(path: Path, labels: int) -> list[Example]:
    """The examples of a file, labels from 0 to `labels` - 1. Raises ArtifactError that names the line at fault."""
    lines = [line for line in read_file(path).split("\n") if line.strip()]
    records = _json_lines(path, lines) if ".jsonl" in path.suffixes else _table(path, lines)
    examples = [_example(path, number, record, labels) for number, record in records]
    if not examples:
        raise ArtifactError(f"{path} holds no examples")
    return examples


def _json_lines(path: Path, lines: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ArtifactError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ArtifactError(f"{path} line {number} is not a JSON object")
        yield number, record


def _table(path: Path, lines: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header = lines[0].split("\t") if lines else []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")  # these sets quote nothing, and their texts hold lone quotes
        if len(cells) != len(header):
            raise ArtifactError(f"{path} line {number} has {len(cells)} columns, its header {len(header)}")
        yield number, dict(zip(header, cells, strict=True))


def _example(path: Path, number: int, record: Mapping[str, Any], labels: int) -> Example:
    names = [next((name for name in known if name in record), None) for known in (_FIRST, _SECOND, _LABEL)]
    if names[0] is None or names[2] is None:
        raise ArtifactError(f"{path} line {number} has {sorted(record)}: expected a text ({_FIRST}) and a label")
    fields = tuple(str(record[name]).strip() for name in names[:2] if name is not None)
    if not all(fields):
        raise ArtifactError(f"{path} line {number} has an empty text")
    found = record[names[2]]
    label = _WORDS.get(found, found)
    try:
        index = int(label)
    except (TypeError, ValueError):
        index = -1
    if not 0 <= index < labels:
        raise ArtifactError(f"{path} line {number} has the label {found!r}: expected 0 to {labels - 1}")
    return Example(fields, index)
