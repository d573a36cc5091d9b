"""Spots: sensitive spans in their sentences, as the device's detectors find them, and the values to guess among.

In people's own texts the detectors look for names (those of names.txt), dates and long numbers. In generated prompts
(benchmarks.planted) the spots are the planted secrets, which were drawn apart from their sentences. Knows nothing of
attacks.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.planted import MAKE, planted
from del_client.policy import Kind
from del_client.protection.detectors import detectors_for
from del_client.protection.found import Found, settle
from del_client.protection.word_list import WordList
from del_server.training.text import read_texts

BEFORE, AFTER = 32, 6
PEOPLE, GENERATED = "people's", "generated"
NAME = "name"
NAMES = Path(__file__).parent / "names.txt"
IN_TEXTS = (NAME, "date", "number")


@dataclass(frozen=True, slots=True)
class Spot:
    """A value in its place: what stands before it (BEFORE tokens at most) and behind it (AFTER), as ids.

    origin, kind: whose text it is from and what it is. source: the file. document: its number there. lead: the blank
    before the value, or "".
    """

    origin: str
    source: str
    kind: str
    document: int
    before: tuple[int, ...]
    lead: str
    value: str
    after: tuple[int, ...]
    around: str


def in_files(paths: Sequence[Path], tokenizer: Any) -> list[Spot]:
    """Names, dates and numbers in people's texts. A text of one piece counts as many documents, its paragraphs."""
    kinds = {name: Kind(name) for name in IN_TEXTS}
    detectors = [*detectors_for(kinds), WordList.load(NAME, NAMES)]
    spots: list[Spot] = []
    for path in paths:
        for number, document in enumerate(_documents(path)):
            found = settle((part for one in detectors for part in one.find(document)), kinds)
            capital = [part for part in found if part.kind != NAME or document[part.start].isupper()]
            spots += _spots((PEOPLE, path.parent.name), number, document, capital, tokenizer)
    return spots


def in_prompts(count: int, seed: int, tokenizer: Any) -> list[Spot]:
    """Planted secrets that are written in a format, in `count` generated prompts."""
    spots: list[Spot] = []
    for number, prompt in enumerate(planted(count, seed)):
        found = [Found(one.start, one.end, one.kind) for one in prompt.secrets if not one.loose]
        spots += _spots((GENERATED, GENERATED), number, prompt.text, found, tokenizer)
    return spots


def _documents(path: Path) -> Iterator[str]:
    texts = read_texts(path)
    for text in texts if len(texts) > 1 else texts[0].split("\n"):
        if text.strip():
            yield text


def _spots(
    where: tuple[str, str], number: int, document: str, found: Iterable[Found], tokenizer: Any
) -> Iterator[Spot]:
    """Those whose value stands there once: wherever else it stood, the device would have hidden it, too."""

    def ids(part: str) -> tuple[int, ...]:
        return tuple(tokenizer(part, add_special_tokens=False).input_ids)

    for part in found:
        before, value = document[max(0, part.start - 400) : part.start], document[part.start : part.end]
        after = document[part.end : part.end + 200]
        lead = " " if before.endswith(" ") else ""
        left, right = ids(before[: len(before) - len(lead)])[-BEFORE:], ids(after)[:AFTER]
        around = before + after
        if left and right and value not in around:
            yield Spot(*where, part.kind, number, left, lead, value, right, around)


class Population:
    """All values of one kind in one text, with how often each occurs, to draw others from."""

    def __init__(self, spots: Sequence[Spot], tokenizer: Any, extra: Iterable[str] = ()) -> None:
        self.counts = Counter([spot.value for spot in spots] + list(extra))
        self._ids = {
            lead + value: tuple(tokenizer(lead + value, add_special_tokens=False).input_ids)
            for value in self.counts
            for lead in ("", " ")
        }

    def ids(self, spot: Spot, value: str) -> tuple[int, ...]:
        """The tokens of a value in a spot's place."""
        return self._ids[spot.lead + value]

    def candidates(self, spot: Spot, most: int, rng: random.Random) -> list[str]:
        """The spot's own value, then others drawn as often as they occur, none twice and none that stands around it.

        Drawn so, each is as likely to be the true one before the context is read. Fewer than `most` where there are no
        more.
        """
        fit = [value for value in self.counts if value != spot.value and value not in spot.around]
        weights = [self.counts[value] for value in fit]
        drawn: dict[str, None] = {}
        while len(drawn) < min(most - 1, len(fit)):
            drawn |= dict.fromkeys(rng.choices(fit, weights, k=most))
        return [spot.value, *list(drawn)[: most - 1]]

    def lengths(self, lead: str = " ") -> Counter[int]:
        """How many tokens values have, each as often as it occurs."""
        found: Counter[int] = Counter()
        for value, count in self.counts.items():
            found[len(self._ids[lead + value])] += count
        return found


def populations(spots: Sequence[Spot], tokenizer: Any, more: int, seed: int) -> dict[tuple[str, str], Population]:
    """By source and kind; of generated prompts with so many more values of each kind."""
    rng = random.Random(seed)
    return {
        (source, kind): Population(
            [spot for spot in spots if (spot.source, spot.kind) == (source, kind)],
            tokenizer,
            [MAKE[kind](rng) for _ in range(more)] if source == GENERATED else (),
        )
        for source, kind in dict.fromkeys((spot.source, spot.kind) for spot in spots)
    }
