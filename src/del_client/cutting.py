"""A text and its regions to spans of token ids, cut at token borders.

The text is tokenised whole, so that the model meets the tokens that it was trained on; only a placeholder, and an
answer whose ids are given, are tokens of their own, as special tokens are. A token that touches a private character is
private, and one that touches a sensitive one is part of that sensitive span. Knows nothing of templates or messages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from del_client.regions import TEMPLATE, Region
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of a prompt, all private or all public, of one message and one kind.

    message: the number of the message that they belong to (-1: the template, or a public message's own text). kind:
    "" for ordinary words, else that of a sensitive span or of the placeholder that stands for it. setting: the noise of
    their own, None where they have none. secret: which secret of its kind they are part of, from 1 (0: none).
    """

    token_ids: tuple[int, ...]
    private: bool
    message: int = TEMPLATE
    kind: str = ""
    setting: NoiseSetting | None = None
    secret: int = 0

    def noise(self, setting: NoiseSetting) -> NoiseSetting:
        """What these tokens are randomised at in a prompt of that setting: the stronger of it and their own."""
        return setting if self.setting is None else min(self.setting, setting, key=lambda one: one.mu(1))


def cut(tokenizer: Tokenizer, text: str, regions: Sequence[Region], pad_id: int) -> list[Span]:
    """The spans of a text; `regions` are ascending and apart, what lies in none is public.

    pad_id: the token that sensitive spans are padded with. Raises InvalidValue where the tokenizer finds no token.
    """
    spans: list[Span] = []
    for start, end, inside in _stretches(len(text), regions):
        if inside and inside[0].token_ids:
            spans.append(_span(inside[0], inside[0].token_ids, pad_id))
            continue
        encoding = tokenizer.encode(text[start:end], add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) + start
        owners = _owners(offsets, start, end, inside)
        for owner, group in itertools.groupby(zip(owners, encoding.ids, strict=True), key=lambda pair: pair[0]):
            ids = tuple(token for _, token in group)
            spans.append(_span(inside[owner], ids, pad_id) if owner >= 0 else Span(ids, private=False))
    if not spans:
        raise InvalidValue("prompt", f"{len(text)} characters", "the tokenizer finds no token in it")
    return spans


def _stretches(length: int, regions: Sequence[Region]) -> Iterator[tuple[int, int, list[Region]]]:
    """(start, end, regions inside) of what is tokenised in one piece: up to, and at, each region that stands alone."""
    position, inside = 0, list[Region]()
    for region in regions:
        if not region.public:
            inside.append(region)
            continue
        if position < region.start:
            yield position, region.start, inside
        yield region.start, region.end, [region]
        position, inside = region.end, []
    if position < length:
        yield position, length, inside


def _span(region: Region, ids: tuple[int, ...], pad_id: int) -> Span:
    part = region.protected
    if part is None:
        return Span(ids, not region.public, region.message)
    padded = ids if region.public else ids + (pad_id,) * (-len(ids) % part.pad)
    return Span(padded, not region.public, region.message, part.kind, part.setting, part.secret)


def _owners(offsets: npt.NDArray[np.int64], start: int, end: int, regions: Sequence[Region]) -> list[int]:
    """For each token, given its characters [T, 2], the index of the region that it is part of; -1: of none.

    Of several regions that a token touches, the most protected one has it, and of equals the first.
    """
    if not len(offsets):
        return []
    by_rank = sorted(range(len(regions)), key=lambda index: _protection(regions[index]), reverse=True)
    ranks = np.zeros(end - start + 1, dtype=np.int64)
    for rank, index in enumerate(reversed(by_rank), start=1):
        ranks[regions[index].start - start : regions[index].end - start] = rank
    highest = np.maximum.reduceat(ranks, _reach(offsets - start, end - start).ravel())[::2]
    return [by_rank[-rank] if rank else -1 for rank in highest.tolist()]


def _protection(region: Region) -> float:
    """The order of regions by how much noise they get; ordinary words have the least."""
    if region.protected is None or region.protected.setting is None:
        return -math.inf
    return -region.protected.setting.mu(1)


def _reach(offsets: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """The characters [T, 2] that tokens with these offsets may hold part of, none of them empty.

    Tokenizers may claim less than a token holds (trimmed spaces, dropped or composed marks), so each range is widened
    over the unclaimed characters on both sides, and an empty one over its neighbours.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    empty = starts >= ends
    earlier_end = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    later_start = np.concatenate([np.minimum.accumulate(starts[::-1])[::-1][1:], [length]])
    starts = np.maximum(np.minimum(starts, earlier_end) - empty, 0)
    ends = np.minimum(np.maximum(ends, later_start) + empty, length)
    return np.stack([starts, np.maximum(ends, starts + 1)], axis=1)
