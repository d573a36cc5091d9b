"""Keys and values of the sequences that share a batch: a row each, of lengths of their own.

Row i of every layer's buffers holds sequence i's first lengths[i] positions; what lies beyond is finite, since one NaN
there would outlive its prompt. Buffers grow by need. They shrink when little of them is used, but not where steps are
recorded, since memory that moves takes the recordings with it. Knows nothing of sequences, sampling or queues.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from del_server.engine.recorded import Record, RecordedSteps

logger = logging.getLogger(__name__)

TOKENS_A_GROWTH = 64
GROWTH = 1.5
# Buffers shrink once less than this share of them is in use.
LEAST_USE = 0.25


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One layer's keys [heads, tokens, key_width] and values [heads, tokens, value_width] of a sequence."""

    heads: int
    key_width: int
    value_width: int
    dtype: torch.dtype
    device: torch.device


def shapes_of(cache: DynamicCache) -> tuple[LayerShape, ...]:
    """The shapes of a plain cache that holds something."""
    layers: list[Any] = list(cache.layers)
    return tuple(
        LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], layer.keys.dtype, layer.keys.device)
        for layer in layers
    )


class Window:
    """Rows `first` to `first + n` of a pass, the positions [n, C] that each writes, and how many it sees."""

    def __init__(self, first: int, positions: Tensor, longest: int) -> None:
        self.first, self.longest = first, longest
        self.last = first + len(positions)
        self._rows = torch.arange(first, self.last, device=positions.device).unsqueeze(1)
        self._positions = positions
        self._elsewhere: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows [n, 1] and positions [n, C] on a layer's device."""
        if device == self._positions.device:
            return self._rows, self._positions
        if device not in self._elsewhere:
            self._elsewhere[device] = self._rows.to(device), self._positions.to(device)
        return self._elsewhere[device]


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers' hook has no annotations
    """One layer's keys and values [rows, heads, tokens, width], written at positions of each row's own."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, shape: LayerShape) -> None:
        """Without rows."""
        super().__init__()  # type: ignore[no-untyped-call]
        kind: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
        self.keys = torch.zeros(0, shape.heads, 0, shape.key_width, **kind)
        self.values = torch.zeros(0, shape.heads, 0, shape.value_width, **kind)
        self.window: Window | None = None
        self.is_initialized = True

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def resize(self, rows: int, tokens: int) -> None:
        """Buffers of that size, with what they held as far as it fits; the new part zero."""
        self.keys = _resized(self.keys, rows, tokens)
        self.values = _resized(self.values, rows, tokens)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [n, heads, C, width] in the window's rows; all that these see, [n, heads, T, width]."""
        window = self.window
        if window is None:
            raise RuntimeError("a pass needs a window")
        rows, positions = window.index(self.keys.device)
        shown = []
        for part, states in ((self.keys, key_states), (self.values, value_states)):
            part[rows, :, positions] = states.transpose(1, 2)
            shown.append(part[window.first : window.last, :, : window.longest])
        return shown[0], shown[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Positions that a pass sees, and where they begin."""
        return (self.window.longest if self.window else 0), 0

    def get_seq_length(self) -> int:
        """Positions that a pass sees, without one of its own."""
        return max(0, self.window.longest - 1) if self.window else 0

    def get_max_length(self) -> int:
        """As much as memory holds."""
        return -1

    # The same, as transformers before 5.20 asks for it.
    get_max_cache_shape = get_max_length


class Slots:
    """The memory of one batch. Its rows are dense.

    record: makes a decode step of a fixed size quick to repeat, where that can be done.
    """

    def __init__(self, shapes: Sequence[LayerShape], record: Record | None = None) -> None:
        self.lengths: list[int] = []
        self._most = 0
        self._layers = [SlotLayer(shape) for shape in shapes]
        self._cache = Cache(layers=list(self._layers))
        # Positions of each row that may hold something: those of a pass that failed, too.
        self._touched: list[int] = []
        self._rows = self._tokens = 0
        self._recorded = RecordedSteps(record) if record else None

    @property
    def bytes(self) -> int:
        """What the buffers take."""
        return sum(part.nbytes for layer in self._layers for part in layer.parts)

    @property
    def positions(self) -> int:
        """Rows times tokens of the buffers."""
        return self._rows * self._tokens

    def open(self, prefix: DynamicCache | None = None) -> int:
        """A new row, the last, which begins with what a cache holds; its number."""
        row, length = len(self.lengths), prefix.get_seq_length() if prefix is not None else 0
        self._reserve(row + 1, length + 1)
        sources: list[Any] = list(prefix.layers) if prefix is not None else []
        for layer, source in zip(self._layers, sources, strict=prefix is not None):
            layer.keys[row, :, :length] = source.keys[0]
            layer.values[row, :, :length] = source.values[0]
        self.lengths.append(length)
        self._touched.append(length)
        return row

    def move(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`, of which nothing else remains there."""
        length, touched = self.lengths[source], self._touched[target]
        for layer in self._layers:
            for part in layer.parts:
                part[target, :, :length] = part[source, :, :length]
                part[target, :, length:touched] = 0
        self.lengths[target] = self._touched[target] = length

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        longest = max(self._touched[one], self._touched[other])
        for layer in self._layers:
            for part in layer.parts:
                held = part[one, :, :longest].clone()
                part[one, :, :longest] = part[other, :, :longest]
                part[other, :, :longest] = held
        for numbers in (self.lengths, self._touched):
            numbers[one], numbers[other] = numbers[other], numbers[one]

    def close(self) -> None:
        """Drop the last row. Nothing of what it held stays in memory."""
        row, touched = len(self.lengths) - 1, self._touched.pop()
        self.lengths.pop()
        for layer in self._layers:
            for part in layer.parts:
                part[row, :, :touched] = 0
        longest = max(self._touched, default=0) + 1
        if self._recorded is None and len(self.lengths) * longest < LEAST_USE * self.positions:
            self._shrink(len(self.lengths), min(self._tokens, _rounded(longest)))

    def enter(self, model: Any, first: int, prompts: Sequence[Tensor]) -> Tensor:
        """Float32 logits [n, V] after further embeddings [C_i, D] of the prompts of n rows from `first` on.

        The rows' lengths are as before until `advance`: a pass that failed can be tried again.
        """
        counts = [len(prompt) for prompt in prompts]
        width, lengths = max(counts), self.lengths[first : first + len(prompts)]
        # A shorter prompt is filled up with its own last token, at that token's own position: the same keys and values
        # are written there again, and the last column is each row's last token.
        embeddings = torch.stack([_filled(prompt, width) for prompt in prompts])
        places = [
            [length + min(column, count - 1) for column in range(width)]
            for length, count in zip(lengths, counts, strict=True)
        ]
        longest = self._touch(first, [length + count for length, count in zip(lengths, counts, strict=True)])
        positions = torch.tensor(places, device=embeddings.device)
        return self._forward(model, first, positions, longest, inputs_embeds=embeddings)

    def step(self, model: Any, ids: Sequence[int], device: torch.device, first: int = 0) -> Tensor:
        """Float32 logits [n, V] after one more token each, `ids`, of n rows from `first` on; lengths as in `enter`."""
        lengths = self.lengths[first : first + len(ids)]
        longest = self._touch(first, [length + 1 for length in lengths])
        if self._recorded is not None and first == 0:
            self._reserve(len(self.lengths), max(self.lengths) + 1)

            def forward(ids: Tensor, positions: Tensor, longest: int) -> Tensor:
                return self._forward(model, 0, positions, longest, input_ids=ids)

            # A step of more rows than asked for writes in the others, too: where they write next, so that it is lost.
            logits = self._recorded.step(forward, ids, self.lengths, longest, (self._rows, self._tokens), device)
            if logits is not None:
                return logits
        inputs = torch.tensor([ids, lengths], device=device).unsqueeze(2)
        return self._forward(model, first, inputs[1], longest, input_ids=inputs[0])

    def advance(self, row: int, count: int = 1) -> None:
        """So many tokens of the row's latest pass count."""
        self.lengths[row] += count

    def bound(self, most: int) -> None:
        """From now on the buffers have at most so many positions, rows times tokens, or what the rows need now."""
        self._most = most
        if self.positions > most:
            self._shrink(len(self.lengths), max(self._touched, default=0) + 1)

    def _touch(self, first: int, ends: Sequence[int]) -> int:
        """Make room for rows from `first` on up to these ends; the longest of them."""
        self._reserve(len(self.lengths), max(ends))
        for row, end in enumerate(ends, start=first):
            self._touched[row] = max(self._touched[row], end)
        return max(ends)

    def _forward(self, model: Any, first: int, positions: Tensor, longest: int, **inputs: Tensor) -> Tensor:
        window = Window(first, positions, longest)
        for layer in self._layers:
            layer.window = window
        output = model(
            **inputs,
            position_ids=positions,
            attention_mask=ragged_mask(positions, longest, self._layers[0].keys.dtype),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _reserve(self, rows: int, tokens: int) -> None:
        """Room for so many rows and tokens, and some to spare where there was too little and the bound allows it."""
        if rows <= self._rows and tokens <= self._tokens:
            return
        tokens = max(tokens, *self._touched) if self._touched else tokens
        more_rows, more_tokens = max(rows, self._rows), max(tokens, self._tokens)
        if tokens > self._tokens:
            more_tokens = _rounded(max(tokens, int(self._tokens * GROWTH)))
        if rows > self._rows:
            more_rows = max(rows, int(self._rows * GROWTH))
        more_tokens = max(tokens, min(more_tokens, self._most // rows))
        more_rows = max(rows, min(more_rows, self._most // more_tokens))
        self._resize(more_rows, more_tokens)

    def _resize(self, rows: int, tokens: int) -> None:
        if (rows, tokens) == (self._rows, self._tokens):
            return
        if self._recorded is not None:
            self._recorded.forget()
        try:
            for layer in self._layers:
                layer.resize(rows, tokens)
        finally:  # where memory gave out halfway, as much as all of them have
            parts = [part for layer in self._layers for part in layer.parts]
            self._rows, self._tokens = min(len(part) for part in parts), min(part.shape[2] for part in parts)

    def _shrink(self, rows: int, tokens: int) -> None:
        """Give memory back. Where there is too little even to move what stays, another time will do."""
        try:
            self._resize(rows, tokens)
        except (RuntimeError, MemoryError):
            logger.warning("keys and values could not be moved to smaller buffers", exc_info=True)


def ragged_mask(positions: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """[n, 1, C, longest] of positions [n, C], added to attention's scores: 0 up to each position, the least number
    beyond."""
    seen = torch.arange(longest, device=positions.device) <= positions.unsqueeze(2)
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _filled(prompt: Tensor, width: int) -> Tensor:
    return torch.cat([prompt, prompt[-1:].expand(width - len(prompt), -1)]) if len(prompt) < width else prompt


def _rounded(tokens: int) -> int:
    return -(-tokens // TOKENS_A_GROWTH) * TOKENS_A_GROWTH


def _resized(part: Tensor, rows: int, tokens: int) -> Tensor:
    resized = part.new_zeros(rows, part.shape[1], tokens, part.shape[3])
    held = part[:rows, :, :tokens]
    resized[: held.shape[0], :, : held.shape[2]] = held
    return resized
