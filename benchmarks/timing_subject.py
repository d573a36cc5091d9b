"""What is timed (timing.py): the shipped codec, and pairs of inputs of one public structure, one fixed, one random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from benchmarks.leak import in_any_order
from del_client.policy import Kind
from del_client.prompt import PromptReader
from del_client.protection.detectors import detectors_for
from del_client.protection.patterns import BUILT_IN
from del_client.protection.protector import Protector
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
from del_codec.shipped import DEVICE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.table import LatentTable

TOKENS, MU = 64, 8.0
WORDS = ("README.md", "docs/privacy.md", "docs/wire-format.md", "docs/client.md", "docs/ledger.md", "docs/policy.md")

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int8]
Levels = npt.NDArray[np.uint8]


class Subject:
    """The shipped codec, public texts, and the two kinds of prompts."""

    def __init__(self) -> None:
        folder = codec_folders()[0]
        self.table = LatentTable.load(folder / DEVICE_FILE)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self.reader = PromptReader(self.tokenizer, None)
        kinds = {name: Kind(name, "private", mu=MU) for name in BUILT_IN}
        self.protector = Protector(kinds, detectors_for(kinds), self.table.spec.dim)
        self.texts = list(self._windows())
        self._rng = np.random.default_rng(0)
        self._fixed = self._rng.integers(0, self.table.spec.vocabulary, TOKENS)

    def ids(self) -> tuple[Ids, Ids]:
        """Token ids [T]."""
        drawn = self._rng.integers(0, self.table.spec.vocabulary, TOKENS)
        return in_any_order(self._fixed.copy, drawn.copy)

    def one_token(self) -> tuple[Ids, Ids]:
        """Token ids [T], the fixed ones all alike: as far from random as a prompt can be."""
        alike, drawn = np.full(TOKENS, self._fixed[0]), self.ids()[1]
        return in_any_order(alike.copy, drawn.copy)

    def rows(self) -> tuple[Rows, Rows]:
        """Latents [T, d]."""
        fixed, drawn = self.ids()
        return in_any_order(lambda: self.table.rows(fixed), lambda: self.table.rows(drawn))

    def corners(self) -> tuple[Rows, Rows]:
        """Latents [T, d], the fixed ones all zero, the others all at the corners of the box."""
        signs = (self._rng.integers(0, 2, (TOKENS, self.table.spec.dim)) * 2 - 1).astype(np.int8)
        return in_any_order(lambda: 0 * signs, lambda: 127 * signs)

    def levels(self, setting: NoiseSetting) -> tuple[Levels, Levels]:
        """Levels [T, d]."""
        fixed, drawn = self.rows()
        return in_any_order(lambda: randomize(fixed, setting), lambda: randomize(drawn, setting))

    def segments(self, setting: NoiseSetting) -> tuple[PrivateSegment, PrivateSegment]:
        """A segment each."""
        fixed, drawn = self.ids()
        return in_any_order(lambda: encode(self.table, fixed, setting), lambda: encode(self.table, drawn, setting))

    def text(self) -> tuple[str, str]:
        """A text of T tokens each."""
        fixed, drawn = self.texts[0], self.texts[random.randrange(1, len(self.texts))]
        return in_any_order(lambda: fixed[:1] + fixed[1:], lambda: drawn[:1] + drawn[1:])  # strings of their own

    def numbers(self) -> tuple[str, str]:
        """A text of words, and one of as many tokens that is made of digits, as numbers of three."""
        digits = "".join(random.choice("0123456789") if at % 4 < 3 else " " for at in range(2 * TOKENS))
        end = self.tokenizer.encode(digits, add_special_tokens=False).offsets[TOKENS - 1][1]
        return self.text()[0], digits[:end]

    def _windows(self) -> Iterator[str]:
        """Pieces of public text that are T tokens by themselves, with nothing in them that a detector finds."""
        root = Path(__file__).parents[1]
        for name in WORDS:
            text = (root / name).read_text()
            offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
            for start in range(0, len(offsets) - TOKENS, 16):
                piece = text[offsets[start][0] : offsets[start + TOKENS - 1][1]]
                whole = len(self.tokenizer.encode(piece, add_special_tokens=False).ids) == TOKENS
                if whole and "{{" not in piece and not self.protector.find(piece)[1]:
                    yield piece
