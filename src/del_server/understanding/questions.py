"""Examples as token ids, exactly as a device cuts them: the template in the clear, what touches a field private."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from del_codec.errors import InvalidValue
from del_codec.task import Task
from del_server.training.text import Batch, Ids
from del_server.understanding.examples import Example


@dataclass(frozen=True, slots=True)
class Questions:
    """prompts: ids of each; private: which of them are; answers: the right label of each [N]; candidates: ids of each
    label, as it is written after a prompt."""

    prompts: list[Ids]
    private: list[npt.NDArray[np.bool_]]
    answers: Ids
    candidates: list[Ids]

    def __len__(self) -> int:
        return len(self.prompts)

    def split(self, count: int) -> tuple[Questions, Questions]:
        """All but the last `count`, and those."""
        at = len(self) - count
        return (
            Questions(self.prompts[:at], self.private[:at], self.answers[:at], self.candidates),
            Questions(self.prompts[at:], self.private[at:], self.answers[at:], self.candidates),
        )

    def batch(self, chosen: Sequence[int] | Ids) -> Batch:
        """Prompts right-aligned, each with its right label to be predicted."""
        length = max(len(self.prompts[i]) for i in chosen)
        longest = max(len(ids) for ids in self.candidates)
        prompt = np.zeros((len(chosen), length), dtype=np.int64)
        private, present = np.zeros((2, len(chosen), length), dtype=np.bool_)
        target = np.zeros((len(chosen), longest), dtype=np.int64)
        scored = np.zeros((len(chosen), longest), dtype=np.bool_)
        for row, i in enumerate(chosen):
            start = length - len(self.prompts[i])
            prompt[row, start:], private[row, start:], present[row, start:] = self.prompts[i], self.private[i], True
            label = self.candidates[self.answers[i]]
            target[row, : len(label)], scored[row, : len(label)] = label, True
        return Batch(prompt, private, present, target, scored)


def read_questions(tokenizer: Tokenizer, task: Task, examples: Sequence[Example], field_tokens: int) -> Questions:
    """Examples under a task, each field cut after its first `field_tokens` tokens.

    Raises InvalidValue for examples of another number of fields or labels that no token tells apart.
    """
    candidates = label_ids(tokenizer, task)
    prompts, private = [], []
    for example in examples:
        text, ranges = task.fill([shorten(tokenizer, field, field_tokens) for field in example.fields])
        encoding = tokenizer.encode(text)
        prompts.append(np.array(encoding.ids, dtype=np.int64))
        private.append(touching(encoding, ranges))
    return Questions(prompts, private, np.array([e.label for e in examples], dtype=np.int64), candidates)


def label_ids(tokenizer: Tokenizer, task: Task) -> list[Ids]:
    """The ids of each label as it is written after a prompt. Raises InvalidValue if two of them are the same."""
    texts = [task.continuation(label) for label in task.labels]
    ids = [tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    if len(set(ids)) != len(ids) or not all(ids):
        raise InvalidValue("labels", list(task.labels), "the tokenizer doesn't tell them apart")
    return [np.array(part, dtype=np.int64) for part in ids]


def shorten(tokenizer: Tokenizer, text: str, most: int) -> str:
    """The text up to the end of its first `most` tokens."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text if len(offsets) <= most else text[: offsets[most - 1][1]]


def touching(encoding: Encoding, ranges: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which tokens [T] hold a character of a range; marks that the tokenizer sets around a text do not."""
    own = np.array(encoding.special_tokens_mask) == 0
    starts, ends = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
    touched: npt.NDArray[np.bool_] = np.zeros(len(own), dtype=np.bool_)
    for start, end in ranges:
        touched |= (starts < end) & (ends > start)
    touched &= own
    return touched
