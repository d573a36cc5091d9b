"""Task: a question about one or two private fields and the answers to choose from, in public words.

Both sides build the same prompt from it. A task comes from a server, so nothing that privacy rests on may depend on it:
it says what stands around the fields, each of which appears once and stays private. Knows nothing of tokens or models.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from del_codec.errors import InvalidValue

MARK = "{}"
MAX_FIELDS = 2
MAX_TEMPLATE_CHARS = 4096
MAX_LABELS = 256
MAX_LABEL_CHARS = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Task:
    """template: public text with MARK where each private field stands (one or two). labels: the answers, in order."""

    name: str
    template: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidValue("name", self.name, "use 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first")
        if not isinstance(self.template, str) or len(self.template) > MAX_TEMPLATE_CHARS:
            raise InvalidValue("template", self.template, f"use a text of at most {MAX_TEMPLATE_CHARS} characters")
        if not 1 <= self.fields <= MAX_FIELDS:
            raise InvalidValue("template", self.template, f"use {MARK} once for each field, 1 to {MAX_FIELDS} times")
        check_labels(self.labels)

    @property
    def fields(self) -> int:
        """How many private fields the prompt has."""
        return self.template.count(MARK)

    def fill(self, fields: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The prompt's text and the range of characters of each field in it. Raises InvalidValue."""
        if len(fields) != self.fields:
            raise InvalidValue("fields", len(fields), f"the task {self.name} asks about {self.fields}")
        if not all(fields):
            raise InvalidValue("fields", "empty", "write at least one character in each")
        around = self.template.split(MARK)
        pieces = [*itertools.chain.from_iterable(zip(around, fields, strict=False)), around[-1]]
        ends = list(itertools.accumulate(map(len, pieces)))
        return "".join(pieces), [(ends[2 * index], ends[2 * index + 1]) for index in range(len(fields))]

    def continuation(self, label: str) -> str:
        """A label as it is written after the prompt: with a space, unless the template ends in white space."""
        return label if self.template[-1:].isspace() else f" {label}"

    def to_json(self) -> str:
        """The task without its name, for people to read and edit."""
        return json.dumps({"template": self.template, "labels": list(self.labels)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, name: str, text: str) -> Task:
        """Parse and validate; raises InvalidValue that names the field."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidValue("task", text, f"must be JSON ({error})") from None
        if not isinstance(data, dict) or set(data) != {"template", "labels"} or not isinstance(data["labels"], list):
            raise InvalidValue("task", data, "must be an object of template and labels (a list)")
        return cls(name, data["template"], tuple(data["labels"]))


def check_labels(labels: Sequence[str]) -> None:
    """Raise InvalidValue unless these are answers to choose from: two different ones at least."""
    if not 2 <= len(labels) <= MAX_LABELS or len(set(labels)) != len(labels):
        raise InvalidValue("labels", list(labels), f"use 2 to {MAX_LABELS} different ones")
    for label in labels:
        if not isinstance(label, str) or not label.strip() or len(label) > MAX_LABEL_CHARS:
            raise InvalidValue("labels", label, f"write 1 to {MAX_LABEL_CHARS} characters, not all of them spaces")
