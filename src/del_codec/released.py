"""What a prompt's private segments release: the Bernoulli draws behind their tokens, from a table and its settings.

Where tables and settings meet certificates. Knows nothing of messages or policies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from del_codec.composition import epsilon_bound
from del_codec.noise import NoiseSetting
from del_codec.release import Release
from del_codec.table import LatentTable

TokensBySetting = Mapping[NoiseSetting, int]


def release_of(table: LatentTable, setting: NoiseSetting, tokens: int) -> Release:
    """The Bernoulli draws behind `tokens` tokens: N = d * u * T, from the thresholds that the table reaches."""
    return Release(table.spec.dim * setting.levels * tokens, setting.threshold_max(table.largest_latent))


def releases_of(table: LatentTable, tokens: TokensBySetting) -> tuple[Release, ...]:
    """Those behind so many tokens of each setting; equal thresholds merged, in their order."""
    draws = Counter[int]()
    for setting, count in tokens.items():
        release = release_of(table, setting, count)
        draws[release.threshold_max] += release.n_draws
    return tuple(Release(n_draws, threshold) for threshold, n_draws in sorted(draws.items()))


def largest_mu(table: LatentTable, tokens: TokensBySetting) -> float:
    """The nominal mu of the weakest noise; 0 where nothing is private."""
    return max((setting.mu(table.spec.dim) for setting in tokens), default=0.0)


@lru_cache(maxsize=1024)
def quick_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """epsilon_bound, remembered: for figures that are looked at by the thousand and bind no one."""
    return epsilon_bound(releases, delta)
