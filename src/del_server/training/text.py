"""Text for training and evaluation: files to token ids, and batches of prompts with their continuations.

A batch is a function of (seed, step) alone, so that a resumed run sees what an uninterrupted one would have seen.
Knows nothing of noise or models.
"""

from __future__ import annotations

import itertools
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from del_codec.errors import ArtifactError, InvalidValue

Ids = npt.NDArray[np.int64]
MAX_TEXT_BYTES = 1 << 32
HISTORY_SHARE = 0.25
HISTORY_ANSWER = 48


@dataclass(frozen=True, slots=True)
class Batch:
    """B prompts of equal padded length with continuations of equal length.

    prompt: ids [B, T], right-aligned. private, present: [B, T] bool (an absent position is padding).
    target: ids [B, C], the continuation. scored: [B, C] bool, which of them count.
    """

    prompt: Ids
    private: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    target: Ids
    scored: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ChatSample:
    """One turn: template ids before the user's words, the words, template ids after them, the answer."""

    before: Ids
    words: Ids
    after: Ids
    answer: Ids


@dataclass(frozen=True, slots=True)
class Corpus:
    """What training reads. stream: ids of plain text; turns: chat turns; between: the template's ids from an answer to
    the user's next words; placeholders: ids of each placeholder that a device may put in a secret's place."""

    stream: Ids
    turns: Sequence[ChatSample] = ()
    between: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    placeholders: Sequence[Ids] = ()


def name_of(path: Path) -> str:
    """What a text is called in results: its folder and name. Where files lie on a machine says nothing."""
    return f"{path.parent.name}/{path.name}"


def read_texts(path: Path) -> list[str]:
    """Documents of a file: .jsonl (field text, instruction or review) or plain text, also with .xz.

    A file of plain text is one document. Project Gutenberg's header and footer are stripped, WikiText's tokenised
    spacing is undone. Raises ArtifactError for a file that can't be read.
    """
    text = read_file(path)
    if ".jsonl" in path.suffixes:
        # splitlines would also cut at U+2028 and its like, which JSON allows inside of a string.
        return [_record_text(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if " @-@ " in text:
        return [detokenize_wikitext(text)]
    return [strip_gutenberg(text)]


def read_dataset(name: str, limit: int) -> list[str]:
    """Up to `limit` documents of a dataset of the `datasets` library, NAME[:CONFIG][:SPLIT]; its field `text`.

    Raises InvalidValue for a dataset that can't be had or has no such field.
    """
    try:
        import datasets
    except ImportError:
        raise InvalidValue(
            "dataset", name, "needs the `datasets` library: pip install 'del-inference[train]'"
        ) from None
    path, *rest = name.split(":")
    config, split = (rest[0] or None) if rest else None, rest[1] if len(rest) > 1 else "train"
    try:
        rows = datasets.load_dataset(path, config, split=split, streaming=True)
        texts = [row["text"] for row in itertools.islice(rows, limit)]
    except KeyError:
        raise InvalidValue(
            "dataset", name, "its rows have no field `text`; save them as .jsonl and use --text"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidValue("dataset", name, f"can't be loaded: {error}") from None
    return [text for text in texts if isinstance(text, str) and text]


def read_file(path: Path) -> str:
    """The UTF-8 text of a file, also of an .xz; line ends are newlines. Raises ArtifactError if it can't be read."""
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} can't be read as UTF-8 text: {error}") from None


def _record_text(path: Path, number: int, line: str) -> str:
    try:
        record = json.loads(line)
        found = next(record[key] for key in ("text", "instruction", "review") if key in record)
        if not isinstance(found, str):
            raise TypeError
        return found
    except (ValueError, TypeError, StopIteration):
        raise ArtifactError(f"{path} line {number} is not a JSON object with a text field") from None


def strip_gutenberg(text: str) -> str:
    """The book alone, without Project Gutenberg's licence; other text as it is, lines of a paragraph joined."""
    start = re.search(r"\*\*\* ?START OF TH[^\n]*\n", text)
    end = re.search(r"\n[^\n]*\*\*\* ?END OF TH|\nEnd of (the )?Project Gutenberg", text)
    body = text[start.end() if start else 0 : end.start() if end else len(text)]
    if start:
        body = re.sub(r"(?<!\n)\n(?!\n)", " ", body)
    return body


def detokenize_wikitext(text: str) -> str:
    """WikiText's spacing undone: ` @-@ ` to `-`, ` , ` to `, `, quotes and brackets closed up; <unk> stays a word."""
    text = re.sub(r" @([-.,])@ ", r"\1", text)
    text = re.sub(r" ([.,;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
    return re.sub(r"^ ", "", text, flags=re.MULTILINE)


def tokenize(tokenizer: Any, texts: Sequence[str], separator: int) -> Ids:
    """All documents as one stream of ids, each followed by `separator`."""
    parts: list[Ids] = []
    for text in texts:
        parts.append(np.asarray(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int64))
        parts.append(np.array([separator], dtype=np.int64))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def text_batch(stream: Ids, rng: np.random.Generator, count: int, prompt: int, continuation: int) -> Batch:
    """`count` random windows of a stream, all `prompt` ids private, the next `continuation` ids to be predicted."""
    window = prompt + continuation
    if len(stream) < window:
        raise InvalidValue("text", f"{len(stream)} tokens", f"give at least {window} tokens of text")
    starts = rng.integers(0, len(stream) - window + 1, count)
    return _split(stream[starts[:, None] + np.arange(window)], prompt)


def windows(stream: Ids, count: int, prompt: int, continuation: int) -> Iterator[Batch]:
    """Up to `count` evenly spaced windows that don't overlap, in batches of 32: for evaluation."""
    window = prompt + continuation
    fits = len(stream) // window
    if fits < 1:
        raise InvalidValue("text", f"{len(stream)} tokens", f"give at least {window} tokens of text")
    starts = np.linspace(0, len(stream) - window, min(count, fits)).astype(np.int64)
    for begin in range(0, len(starts), 32):
        yield _split(stream[starts[begin : begin + 32, None] + np.arange(window)], prompt)


def _split(ids: Ids, prompt: int) -> Batch:
    everywhere = np.ones((len(ids), prompt), dtype=np.bool_)
    target = ids[:, prompt:]
    return Batch(ids[:, :prompt], everywhere, everywhere, target, np.ones(target.shape, dtype=np.bool_))


def chat_batch(
    samples: Sequence[ChatSample], between: Ids, rng: np.random.Generator, count: int, continuation: int
) -> Batch:
    """`count` random chats: template and earlier answers public, users' words private, the last answer to be predicted.

    One chat in four has an earlier turn; `between` are the template's ids from an answer to the next words,
    empty where the model has no such template.
    """
    chosen = [samples[i] for i in rng.integers(0, len(samples), count)]
    earlier = [samples[i] for i in rng.integers(0, len(samples), count)]
    has_history = (rng.random(count) < HISTORY_SHARE) & (len(between) > 0)
    chats = [
        _with_history(past, between, now) if with_past else _turn(now.before, now)
        for past, now, with_past in zip(earlier, chosen, has_history, strict=True)
    ]
    length = max(len(ids) for ids, _ in chats)
    prompt = np.zeros((count, length), dtype=np.int64)
    private, present = np.zeros((2, count, length), dtype=np.bool_)
    target = np.zeros((count, continuation), dtype=np.int64)
    scored = np.zeros((count, continuation), dtype=np.bool_)
    for row, ((ids, own), sample) in enumerate(zip(chats, chosen, strict=True)):
        start = length - len(ids)
        prompt[row, start:], private[row, start:], present[row, start:] = ids, own, True
        answer = sample.answer[:continuation]
        target[row, : len(answer)], scored[row, : len(answer)] = answer, True
    return Batch(prompt, private, present, target, scored)


def _turn(before: Ids, turn: ChatSample) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Ids of a turn up to its answer, and which of them are private."""
    parts = (before, turn.words, turn.after)
    return np.concatenate(parts), np.repeat([False, True, False], [len(part) for part in parts])


def _with_history(past: ChatSample, between: Ids, now: ChatSample) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """A turn after another one, whose answer stands in the clear."""
    ids, private = _turn(past.before, past)
    answer = past.answer[:HISTORY_ANSWER]
    later, later_private = _turn(between, now)
    public = np.zeros(len(answer), dtype=np.bool_)
    return np.concatenate([ids, answer, later]), np.concatenate([private, public, later_private])
