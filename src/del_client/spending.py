"""Budget: what a ledger says was given away, and what a policy leaves of today and of the latest conversation.

Knows nothing of terminals; changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from del_client.entries import Entries, Group, Grouping, Spent
from del_client.ledger import Ledger
from del_client.limits import Quantity, Use, exact_epsilon, excesses, spent_of
from del_client.policy import Policy, Unit
from del_codec.accounting import rho_of
from del_codec.composition import composes_exactly
from del_codec.filter import filter_epsilon
from del_codec.moments import best_tilt_for_epsilon
from del_codec.release import MAX_DRAWS, Release

_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Spending:
    """One day, server or conversation: prompts and tokens drawn, rho, and epsilon if settings were fixed beforehand.

    A day's name is its number since 1970.
    """

    name: str
    prompts: int
    tokens: int
    rho: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Left:
    """One limit: how much of it is spent, as the gate counts, and how many more tokens fit at the latest setting.

    tokens is None where nothing was sent yet, mu then 0.
    """

    unit: Unit
    name: str
    quantity: Quantity
    spent: float
    bound: float
    tokens: int | None
    mu: float

    @property
    def left(self) -> float:
        """The rest; never below zero."""
        return max(0.0, self.bound - self.spent)


@dataclass(frozen=True, slots=True)
class Budget:
    """Everything that `del-client budget` shows; the latest rows last."""

    by: Grouping
    day: int
    delta: float
    rows: tuple[Spending, ...]
    left: tuple[Left, ...]
    tokens_in_the_clear: int
    memory_bytes: int


def budget(ledger: Ledger, policy: Policy, by: Grouping, last: int) -> Budget:
    """Read the ledger once, and compute."""
    with ledger.reading() as entries:
        return Budget(
            by=by,
            day=entries.day,
            delta=policy.delta,
            rows=tuple(_spending(group, policy.delta) for group in entries.groups(by, last)),
            left=tuple(_left(entries, policy)),
            tokens_in_the_clear=entries.tokens_in_the_clear(),
            memory_bytes=entries.memory_bytes(),
        )


def _spending(group: Group, delta: float) -> Spending:
    epsilon = composed_epsilon(group.releases, delta)
    return Spending(group.name, group.prompts, group.tokens, rho_of(group.releases), epsilon)


def composed_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """epsilon of releases whose settings were fixed beforehand: exact, or a bound where they are too many for that."""
    if composes_exactly(releases):
        return exact_epsilon(releases, delta)
    tilt, _ = best_tilt_for_epsilon(releases, math.log(delta))
    return filter_epsilon(releases, delta, tilt)


def _left(entries: Entries, policy: Policy) -> list[Left]:
    latest = entries.latest()
    units: list[tuple[Unit, str, Spent]] = [("day", "today", entries.spent("day", entries.day))]
    if latest is not None:
        units.insert(0, ("conversation", latest[0], entries.spent("conversation", latest[0])))
    return [
        Left(
            unit=unit,
            name=name,
            quantity=quantity,
            spent=spent_of(spent, quantity, bound, policy.delta),
            bound=bound,
            tokens=None if latest is None else _room(policy, unit, spent, latest[2]),
            mu=0.0 if latest is None else latest[1],
        )
        for unit, name, spent in units
        for quantity, bound in _bounds(policy, unit)
    ]


def _bounds(policy: Policy, unit: Unit) -> list[tuple[Quantity, float]]:
    limit = policy.limits.of(unit)
    bounds: list[tuple[Quantity, float | None]] = [("epsilon", limit.epsilon), ("rho", limit.rho)]
    return [(quantity, bound) for quantity, bound in bounds if bound is not None]


def _room(policy: Policy, unit: Unit, spent: Spent, one_token: Release) -> int:
    """How many more tokens of that kind the unit's limits let through."""

    def fits(tokens: int) -> bool:
        use = Use(unit, spent, (Release(one_token.n_draws * tokens, one_token.threshold_max),))
        return not excesses(policy, [use], lambda _: 0.0)

    most = min(_MOST_TOKENS, MAX_DRAWS // one_token.n_draws)
    low, high = 0, 1
    while high < most and fits(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
