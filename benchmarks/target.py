"""Target: one measurable promise, measured when asked. Knows nothing of what is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

GROUPS = ("codec", "wire", "privacy", "serving", "edge", "ledger", "gateway", "operations", "vllm")


@dataclass(frozen=True, slots=True)
class Target:
    """name: what is measured, with its unit. goal: a bound. kind: whether the goal is the most or the least allowed."""

    name: str
    goal: float
    kind: Literal["at most", "at least"]
    measure: Callable[[], float]

    def line(self) -> tuple[str, bool]:
        """`name measured goal ok|short`, and whether it is ok."""
        measured = self.measure()
        ok = measured <= self.goal if self.kind == "at most" else measured >= self.goal
        return f"{self.name} {measured:.4g} {self.goal:g} {'ok' if ok else 'short'}", ok
