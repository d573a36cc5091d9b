"""Certificates: what a set of releases costs in privacy, with everything a reader needs to know what the number means.

Computed from the integers that a device samples with (numbers of draws and thresholds), never from the nominal mu.
Knows nothing of tables, messages or policies: whoever sends says what was released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from del_codec.composition import compose, delta_of, epsilon_of, pure_epsilon_of
from del_codec.errors import InvalidValue
from del_codec.release import MAX_DRAWS, Release, check_delta, check_int
from del_codec.tradeoff import delta, epsilon, pure_epsilon, rho

__all__ = [
    "UNITS",
    "Certificate",
    "Release",
    "certify",
    "compose",
    "delta",
    "delta_of",
    "epsilon",
    "epsilon_of",
    "pure_epsilon",
    "pure_epsilon_of",
    "rho",
    "rho_of",
]

UNITS = ("token", "secret", "segment", "prompt", "conversation", "day")

ADVERSARY = (
    "the server, or whoever reads all that it receives: knows the mechanism, the noise setting, every table and all "
    "weights, and has unlimited computing power; does not know the device's random bits"
)
ADJACENCY = (
    "two prompts of the same public structure: the same places, lengths, noise settings and kinds of private "
    "segments and the same public token ids, with any private tokens that differ within one {unit}; structure is sent "
    "in the clear and has no epsilon, also where it depends on private text"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A differential-privacy guarantee with its unit and its assumptions; every figure is rounded up.

    unit: what may differ between adjacent prompts (one of UNITS), tokens: how many tokens that is. epsilon holds at
    delta; pure_epsilon at delta = 0; rho is the zCDP parameter. n_draws: Bernoulli draws in all; p_plus: the largest
    probability of any (1/2 without releases). adversary, adjacency: sentences to show beside the figures.
    """

    unit: str
    tokens: int
    delta: float
    epsilon: float
    pure_epsilon: float
    rho: float
    n_draws: int
    p_plus: float
    adversary: str
    adjacency: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def certify(releases: Sequence[Release], *, unit: str, tokens: int, delta: float) -> Certificate:
    """The certificate of all releases that one unit's tokens took part in, settings fixed beforehand.

    No release (nothing private was sent) costs 0. Raises InvalidValue for an unknown unit, a negative number of
    tokens or one other than 1 for the unit token, delta outside of 0..1, or what compose refuses.
    """
    if unit not in UNITS:
        raise InvalidValue("unit", unit, f"use one of {', '.join(UNITS)}")
    check_int("tokens", tokens, 1 if unit == "token" else 0, 1 if unit == "token" else MAX_DRAWS)
    check_delta(delta)
    return Certificate(
        unit=unit,
        tokens=tokens,
        delta=float(delta),
        epsilon=epsilon_of(releases, delta),
        pure_epsilon=pure_epsilon_of(releases),
        rho=rho_of(releases),
        n_draws=sum(release.n_draws for release in releases),
        p_plus=max((release.p_plus for release in releases), default=0.5),
        adversary=ADVERSARY,
        adjacency=ADJACENCY.format(unit=unit),
    )


def rho_of(releases: Sequence[Release]) -> float:
    """The zCDP parameter of all releases together: the sum, also for settings chosen adaptively (zCDP composes)."""
    return math.fsum(rho(release) for release in releases)
