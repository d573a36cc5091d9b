"""Whether a query's charges stay within a policy's limits, given what each unit spent before.

One query's settings are fixed before its bits are seen, so they compose exactly; what a unit spent earlier may have
been chosen in the light of answers, so that a unit with a past goes by a privacy filter (del_codec.filter). Knows
nothing of where the past is kept, or of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from del_client.entries import Spent
from del_client.policy import Policy, Unit
from del_codec.accounting import epsilon_of, rho_of
from del_codec.caps import cap_uniform
from del_codec.errors import PrivacyRefusal
from del_codec.filter import filter_epsilon, filter_tilt
from del_codec.release import MAX_DRAWS, Release

Quantity = Literal["epsilon", "rho", "cap"]
QUANTITIES: tuple[Quantity, ...] = ("epsilon", "rho", "cap")


@dataclass(frozen=True, slots=True)
class Use:
    """What a query adds to one unit: its releases, what the unit spent before, and a secret's number of choices."""

    unit: Unit
    spent: Spent
    releases: tuple[Release, ...]
    choices: int | None = None

    @property
    def total(self) -> list[Release]:
        """All releases of the unit, those of the query included."""
        return [*self.spent.past, *self.releases]

    @property
    def envelope(self) -> Release:
        """One release that tells at least as much as all of them: every draw at the largest threshold.

        Raises PrivacyRefusal for more draws than a release may have.
        """
        total = self.total
        draws = sum(one.n_draws for one in total)
        if draws > MAX_DRAWS:
            raise PrivacyRefusal(
                f"limits.{self.unit}.cap can't be judged: {draws} draws were made of one {self.unit}, and no cap is "
                f"computed of more than {MAX_DRAWS}; nothing was sent; leave the words out, or limit epsilon or rho"
            )
        return Release(draws, max(one.threshold_max for one in total))


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that would be exceeded: of which unit and quantity, what it would come to, and the bound."""

    unit: Unit
    quantity: Quantity
    value: float
    bound: float

    @property
    def key(self) -> str:
        """The policy's key."""
        return f"limits.{self.unit}.{self.quantity}"


def excesses(policy: Policy, uses: Sequence[Use], token_cap: Callable[[Release], float]) -> list[Excess]:
    """The limits that the query would exceed: for each unit and quantity the worst, in the order of the policy."""
    worst: dict[str, Excess] = {}
    for use in uses:
        limit = policy.limits.of(use.unit)
        for quantity in QUANTITIES:
            bound: float | None = getattr(limit, quantity)
            if bound is None:
                continue
            excess = Excess(use.unit, quantity, _value(use, quantity, bound, policy.delta, token_cap), bound)
            if excess.value > bound and (excess.key not in worst or worst[excess.key].value < excess.value):
                worst[excess.key] = excess
    return list(worst.values())


@lru_cache(maxsize=1024)
def exact_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """epsilon_of, remembered: one query asks for the same several times, and queries are often alike."""
    return epsilon_of(releases, delta)


def epsilon_with(use: Use, limit: float, delta: float) -> float:
    """The unit's epsilon at delta with the query: exact for a unit's first query, by the filter for later ones."""
    if not use.spent.past:
        return exact_epsilon(use.releases, delta)
    return filter_epsilon(use.total, delta, filter_tilt(use.spent.first, limit, delta))


def spent_of(spent: Spent, quantity: Quantity, bound: float, delta: float) -> float:
    """How much of a bound on rho or epsilon a unit has used, as its next query will find it; 0 without a past."""
    if quantity == "rho" or not spent.past:
        return rho_of(spent.past)
    return filter_epsilon(spent.past, delta, filter_tilt(spent.first, bound, delta))


def _value(use: Use, quantity: Quantity, bound: float, delta: float, token_cap: Callable[[Release], float]) -> float:
    if quantity == "epsilon":
        return epsilon_with(use, bound, delta)
    if quantity == "rho":
        return rho_of(use.total)
    return token_cap(use.envelope) if use.choices is None else cap_uniform(use.envelope, use.choices)
