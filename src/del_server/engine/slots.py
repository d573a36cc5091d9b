"""Keys and values of the sequences that decode together: a row each, of lengths of their own.

Row i of every layer's buffers holds sequence i's first lengths[i] positions; what lies beyond is zero, since one NaN
there would outlive its prompt. Buffers grow by need. Knows nothing of sequences, sampling or queues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

TOKENS_A_GROWTH = 64


@dataclass(slots=True)
class Window:
    """Rows `first` to `last` (not included) of a step, the position [n] that each writes, and positions in use."""

    first: int = 0
    last: int = 0
    positions: Tensor | None = None
    longest: int = 0


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' hook has no annotations
    """One layer's keys and values [rows, heads, tokens, width], written at a position of each row's own."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, window: Window) -> None:
        """Without rows; made for keys and values like these [1, heads, tokens, width]."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = (part.new_zeros(0, part.shape[1], 0, part.shape[3]) for part in (keys, values))
        self.window = window
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def resize(self, rows: int, tokens: int) -> None:
        """Buffers of at least what they were, the new part zero."""
        self.keys, self.values = (_grown(part, rows, tokens) for part in (self.keys, self.values))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a token's keys and values [n, heads, 1, width] in the window's rows; the seen [n, heads, T, width]."""
        window = self.window
        if window.positions is None:
            raise RuntimeError("a step needs a window")
        positions = window.positions.to(self.keys.device)
        rows = torch.arange(window.first, window.last, device=self.keys.device)
        shown = []
        for part, states in ((self.keys, key_states), (self.values, value_states)):
            part[rows, :, positions] = states[:, :, 0]
            shown.append(part[window.first : window.last, :, : window.longest])
        return shown[0], shown[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Positions that a step sees, and where they begin."""
        return self.window.longest, 0

    def get_seq_length(self) -> int:
        """Positions that a step sees, without its own."""
        return max(0, self.window.longest - 1)

    def get_max_length(self) -> int:
        """As much as memory holds."""
        return -1

    # The same, as transformers before 5.20 asks for it.
    get_max_cache_shape = get_max_length


class Slots:
    """The memory of one batch. Its rows are dense: the last one moves to where another left."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._window = Window()
        self._layers: list[SlotLayer] = []
        self._rows = self._tokens = 0
        self._cache: Cache | None = None

    @property
    def bytes(self) -> int:
        """What the buffers take."""
        return sum(part.nbytes for layer in self._layers for part in (layer.keys, layer.values))

    def add(self, cache: DynamicCache) -> int:
        """Copy a sequence's cache into a new row, the last; its number."""
        row, length = len(self.lengths), cache.get_seq_length()
        sources: list[Any] = list(cache.layers)
        if self._cache is None:
            self._layers = [SlotLayer(source.keys, source.values, self._window) for source in sources]
            self._cache = Cache(layers=list(self._layers))
        self._reserve(row + 1, length + 1)
        for layer, source in zip(self._layers, sources, strict=True):
            layer.keys[row, :, :length] = source.keys[0]
            layer.values[row, :, :length] = source.values[0]
        self.lengths.append(length)
        return row

    def remove(self, row: int) -> None:
        """Free a row; the last one takes its number. Nothing of what it held stays in memory."""
        last = len(self.lengths) - 1
        # One more than its length: a step that failed may have written there.
        beyond, kept = self.lengths[row] + 1, self.lengths[last] + 1
        for layer in self._layers:
            for part in (layer.keys, layer.values):
                part[row, :, :beyond] = 0
                if row != last:
                    part[row, :, :kept] = part[last, :, :kept]
                    part[last, :, :kept] = 0
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def step(self, model: Any, ids: Tensor, first: int = 0) -> Tensor:
        """Logits [n, V] in float32 after one more token each, ids [n], of n rows from `first` on.

        The rows' lengths are as before until `advance`: a step that failed can be tried again.
        """
        last = first + len(ids)
        lengths = self.lengths[first:last]
        longest = max(lengths) + 1
        self._reserve(len(self.lengths), longest)
        positions = torch.tensor(lengths, device=ids.device)
        window = self._window
        window.first, window.last, window.positions, window.longest = first, last, positions, longest
        output = model(
            input_ids=ids.unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            attention_mask=ragged_mask(positions, longest, self._layers[0].keys.dtype),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def advance(self, row: int) -> None:
        """The row's token of the latest step counts."""
        self.lengths[row] += 1

    def _reserve(self, rows: int, tokens: int) -> None:
        """Room for so many rows and tokens, and some to spare where there was too little."""
        if rows <= self._rows and tokens <= self._tokens:
            return
        if tokens > self._tokens:
            tokens = -(-max(tokens, self._tokens + self._tokens // 4) // TOKENS_A_GROWTH) * TOKENS_A_GROWTH
        if rows > self._rows:
            rows = max(rows, self._rows + self._rows // 2)
        rows, tokens = max(rows, self._rows), max(tokens, self._tokens)
        for layer in self._layers:
            layer.resize(rows, tokens)
        self._rows, self._tokens = rows, tokens


def ragged_mask(positions: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """[n, 1, 1, longest], added to attention's scores: 0 up to each row's position, the least number beyond."""
    seen = torch.arange(longest, device=positions.device) <= positions.unsqueeze(1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]


def _grown(part: Tensor, rows: int, tokens: int) -> Tensor:
    grown = part.new_zeros(rows, part.shape[1], tokens, part.shape[3])
    grown[: part.shape[0], :, : part.shape[2]] = part
    return grown
