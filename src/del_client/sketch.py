"""Sketch: bits drawn for the tokens of a draft, and what an attack on single tokens reads from them.

A token's bits are drawn once and kept while it stays in the draft, so that only what changed is drawn and attacked
again. They are a preview's: no ledger knows of them, none is ever sent, and what is sent is drawn anew. Knows nothing
of messages or of where a draft is written.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from del_client.prepared import preview_bits
from del_codec.attacks import TokenAttack
from del_codec.bitpack import pack
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

_KEPT_ATTACKS = 3
_Place = tuple[int, int, NoiseSetting]


@dataclass(frozen=True, slots=True)
class Look:
    """One token's preview: its packed bits, the likeliest token given them, and that one's posterior probability."""

    bits: bytes
    guess: int
    posterior: float


class Attacks:
    """MAP attacks on one table under one prior [V], made ready at their first use; the latest settings' are kept."""

    def __init__(self, table: LatentTable, prior: npt.NDArray[np.float64]) -> None:
        self.table = table
        self._prior = prior
        self._ready: OrderedDict[NoiseSetting, TokenAttack] = OrderedDict()

    def at(self, setting: NoiseSetting) -> TokenAttack:
        """The attack at a setting."""
        attack = self._ready.pop(setting, None) or TokenAttack(self.table, setting, self._prior)
        self._ready[setting] = attack
        while len(self._ready) > _KEPT_ATTACKS:
            self._ready.popitem(last=False)
        return attack


class Sketch:
    """The preview of one draft as it is written."""

    def __init__(self, attacks: Attacks) -> None:
        self._attacks = attacks
        self._looks: dict[_Place, Look] = {}

    def look(self, tokens: Sequence[tuple[int, NoiseSetting]]) -> list[Look]:
        """A look at each token id with its noise. One that the draft had before, as often, keeps its bits.

        What the draft holds no more is forgotten. Raises InvalidValue for an id outside of the vocabulary.
        """
        places = list(_places(tokens))
        new: dict[NoiseSetting, list[_Place]] = defaultdict(list)
        for place in places:
            if place not in self._looks:
                new[place[2]].append(place)
        for setting, missing in new.items():
            self._looks |= dict(zip(missing, self._drawn([token for token, _, _ in missing], setting), strict=True))
        self._looks = {place: self._looks[place] for place in places}
        return list(self._looks.values())

    def _drawn(self, token_ids: Sequence[int], setting: NoiseSetting) -> Iterator[Look]:
        table = self._attacks.table
        levels = preview_bits(table, token_ids, setting).levels(table.spec.dim)
        guesses, posteriors = self._attacks.at(setting).guess(levels)
        for level, guess, posterior in zip(levels, guesses.tolist(), posteriors.tolist(), strict=True):
            yield Look(pack(level, setting.bits), guess, posterior)


def _places(tokens: Sequence[tuple[int, NoiseSetting]]) -> Iterator[_Place]:
    """Each token with how often it occurred before, by which it is known again wherever the draft moves it."""
    seen: Counter[tuple[int, NoiseSetting]] = Counter()
    for token, setting in tokens:
        yield token, seen[token, setting], setting
        seen[token, setting] += 1
