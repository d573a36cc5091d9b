"""Release: what a certificate is computed from, as two integers: the number of draws and the largest threshold.

Knows nothing of tables, settings or messages: whoever samples says how many Bernoulli draws were made and between which
probabilities they lay.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache

from del_codec.errors import InvalidValue

GRID = 1 << 32
HALF = GRID >> 1
MAX_DRAWS = 1 << 36
_DIGITS = 60


@dataclass(frozen=True, slots=True)
class Release:
    """N independent Bernoulli draws whose probabilities all lie in [1 - p+, p+], p+ = threshold_max / 2^32.

    n_draws: N = d*u*T, 1 to 2^36 (dimensions, levels above zero, tokens). threshold_max: 2^31 (fair coins) to 2^32 - 1,
    the symmetric envelope max(t_max, 2^32 - t_min) of the thresholds t in use. Raises InvalidValue.
    """

    n_draws: int
    threshold_max: int

    def __post_init__(self) -> None:
        check_int("n_draws", self.n_draws, 1, MAX_DRAWS)
        check_int("threshold_max", self.threshold_max, HALF, GRID - 1)

    @property
    def p_plus(self) -> float:
        """p+, the largest probability of a draw; exact in float64."""
        return self.threshold_max / GRID

    @property
    def is_fair(self) -> bool:
        """Whether every draw is a fair coin, which says nothing about its input."""
        return self.threshold_max == HALF

    @property
    def log_odds(self) -> Decimal:
        """L = ln(p+ / (1 - p+)), the privacy loss of one draw, to 60 digits."""
        return _log_odds(self.threshold_max)


def precise() -> AbstractContextManager[Context]:
    """A context of 60 decimal digits, for the few scalars where differences of large numbers decide."""
    return localcontext(Context(prec=_DIGITS))


def up(value: Decimal) -> float:
    """The nearest float that is not below the value."""
    nearest = float(value)
    return nearest if Decimal(nearest) >= value else math.nextafter(nearest, math.inf)


@lru_cache(maxsize=1024)
def _log_odds(threshold: int) -> Decimal:
    with precise():
        return (Decimal(threshold) / Decimal(GRID - threshold)).ln()


def check_int(field: str, value: object, low: int, high: int) -> None:
    """Raise InvalidValue unless value is a whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidValue(field, value, f"use a whole number from {low} to {high}")


def check_delta(delta: float) -> None:
    """Raise InvalidValue unless 0 <= delta < 1."""
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not 0 <= delta < 1:
        raise InvalidValue("delta", delta, "use a number from 0 (pure privacy) to below 1, such as 1e-5")


def check_epsilon(epsilon: float) -> None:
    """Raise InvalidValue unless epsilon is finite and at least zero."""
    number = isinstance(epsilon, (int, float)) and not isinstance(epsilon, bool)
    if not number or not math.isfinite(epsilon) or epsilon < 0:
        raise InvalidValue("epsilon", epsilon, "use a finite number, zero or more")
