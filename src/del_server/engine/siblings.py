"""Linear layers that read the same input, such as a layer's queries, keys and values: one product for all of them.

Their weights become rows of one tensor, for good; that they are one product holds as long as it is asked for, so that
whoever looks at the model otherwise finds the layers that it had. Knows nothing of what the model is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Siblings:
    """Linears in the order in which they are asked."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        """The weights move into one tensor, and what they took before is free; they stay parameters of their own."""
        self._linears = linears
        self._weight = _joined([linear.weight for linear in linears])
        self._bias = None if linears[0].bias is None else _joined([linear.bias for linear in linears])
        self._sizes = [linear.out_features for linear in linears]
        self._input: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()
        # Made once: a compiler takes other functions for other code.
        self._forwards = [self._forward_of(index) for index in range(len(linears))]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile the first that is asked computes for all."""
        try:
            for linear, forward in zip(self._linears, self._forwards, strict=True):
                linear.__dict__["forward"] = forward
            yield
        finally:
            self._input, self._parts = None, ()
            for linear in self._linears:
                linear.__dict__.pop("forward", None)

    def _forward_of(self, index: int) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            if index == 0:
                self._input = input
                self._parts = F.linear(input, self._weight, self._bias).split_with_sizes(self._sizes, -1)
            if input is not self._input:
                return F.linear(input, self._linears[index].weight, self._linears[index].bias)
            part = self._parts[index]
            if index == len(self._sizes) - 1:
                self._input, self._parts = None, ()
            return part

        return forward


def siblings_of(model: nn.Module, run: Callable[[], object]) -> list[Siblings]:
    """The groups of plain linears that read the same tensor one after another when `run` runs the model."""
    asked: dict[nn.Linear, Tensor] = {}

    def note(linear: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(linear, nn.Linear) and given:
            asked.setdefault(linear, given[0])

    plain = [module for module in model.modules() if _plain(module)]
    hooks = [linear.register_forward_pre_hook(note) for linear in plain]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    with torch.inference_mode(False), torch.no_grad():
        return [Siblings(group) for group in _groups(asked) if len(group) > 1]


def _plain(module: nn.Module) -> bool:
    """Whether it is a linear layer and no more: nothing derived from it, hooked to it or put in its forward's place."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return type(module) is nn.Linear and not hooked


def _groups(asked: dict[nn.Linear, Tensor]) -> Iterable[list[nn.Linear]]:
    group: list[nn.Linear] = []
    for linear, given in asked.items():
        if group and not (given is asked[group[-1]] and _alike(linear, group[-1])):
            yield group
            group = []
        group.append(linear)
    yield group


def _alike(one: nn.Linear, other: nn.Linear) -> bool:
    same = one.weight.dtype == other.weight.dtype and one.weight.device == other.weight.device
    return same and (one.bias is None) == (other.bias is None)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """A tensor of all rows, of which the parts are views from here on, if they aren't yet."""
    first, rows = parts[0], [len(part) for part in parts]
    if all(_ends_where(*pair) for pair in pairwise(parts)):
        size = (sum(rows), *first.shape[1:])
        return first.new_empty(0).set_(first.untyped_storage(), first.storage_offset(), size, first.stride())
    joined = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, joined.split_with_sizes(rows), strict=True):
        part.data = view
    return joined


def _ends_where(one: Tensor, other: Tensor) -> bool:
    """Whether one's memory ends where the other's begins, within the same allocation."""
    together = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    return together and one.is_contiguous() and one.storage_offset() + one.numel() == other.storage_offset()
