"""Recent: what was used lately, within bounds. Knows nothing of what it holds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """At most `most` values that weigh at most `weight` together; the one that was longest not used goes first."""

    def __init__(self, most: int, weight: int) -> None:
        self._most = most
        self._room = weight
        self._values: OrderedDict[bytes, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> T | None:
        """A value, used now; None if it isn't there, or not any more."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: bytes, value: T, weight: int) -> None:
        """Hold a value, used now. One that weighs more than all may is not held."""
        _, before = self._values.pop(key, (None, 0))
        self._values[key] = value, weight
        self._room += before - weight
        while self._room < 0 or len(self._values) > self._most:
            _, (_, dropped) = self._values.popitem(last=False)
            self._room += dropped
