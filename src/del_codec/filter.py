"""A privacy filter: an epsilon that holds where settings are chosen in the light of what earlier releases told.

epsilon_of composes releases that were all fixed beforehand. Where the next setting, or whether there is one, may depend
on the answers so far, a bound on the sum of the Renyi divergences of *one* order a, fixed at the start, still bounds
the whole (V. Feldman, T. Zrnic 2021, "Individual privacy accounting via a Renyi filter"; for zCDP J. Whitehouse,
A. Ramdas, R. Rogers, Z. S. Wu 2023, "Fully-adaptive composition in differential privacy"). To stop where the exact
composition of what was released so far meets the limit would bound nothing (arXiv 2602.06756). A device refuses
whatever would take that sum past its limit. Any order gives a valid filter; which one is chosen decides only how much
fits. Knows nothing of units or policies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from del_codec.errors import InvalidValue
from del_codec.moments import log_delta_bound, most_admitting_tilt
from del_codec.release import Release
from del_codec.tradeoff import ARITHMETIC_MARGIN


def filter_tilt(first: Sequence[Release], limit: float, delta: float) -> float:
    """The order, less one, at which a filter for (limit, delta) admits the most repetitions of its first releases.

    delta in (0, 1), limit > 0. Takes nothing from later releases, so that it is fixed before any answer.
    """
    if all(release.is_fair for release in first):
        return 1.0
    return most_admitting_tilt(first, limit, math.log(delta))


def filter_epsilon(releases: Sequence[Release], delta: float, tilt: float) -> float:
    """epsilon at delta of all releases together from their divergences of order tilt + 1, rounded up.

    epsilon = D + ln((a-1)/a) - (ln delta + ln a)/(a-1) with D the sum of the divergences of order a (C. Canonne,
    G. Kamath, T. Steinke 2020). Settings may be adaptive if the tilt is not. Zero without releases.
    Raises InvalidValue unless 0 < delta < 1 and tilt > 0.
    """
    if not 0 < delta < 1:
        raise InvalidValue("delta", delta, "use a number above 0, below 1, such as 1e-5")
    if not 0 < tilt < math.inf:
        raise InvalidValue("tilt", tilt, "use a finite number above 0")
    if all(release.is_fair for release in releases):
        return 0.0
    bound = (float(log_delta_bound(releases, np.array([tilt]))[0]) - math.log(delta)) / tilt
    return max(0.0, bound + ARITHMETIC_MARGIN * (abs(bound) - math.log(delta) / tilt))
