"""A refusal that helps: which limits a query would exceed, by how much, and what would fit instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from del_client.drawings import Drawing
from del_client.limits import Excess
from del_codec.errors import InvalidValue, LimitExceeded
from del_codec.noise import NoiseSetting

_HALVINGS = 12
# Below this mu nothing of a token is left to read; the search for what fits ends there.
_LEAST_MU = 0.01

Judge = Callable[[Sequence[Drawing]], list[Excess]]


def limit_exceeded(drawings: Sequence[Drawing], found: Sequence[Excess], judge: Judge, dim: int) -> LimitExceeded:
    """The error for a query whose drawings exceed the limits found; `judge` says what other drawings would exceed.

    What would fit is sought by changing ordinary words alone: sensitive spans keep the noise that the policy gave them.
    """
    mu = _largest_mu(drawings, judge, dim)
    tokens = _most_tokens(drawings, judge)
    total = sum(one.tokens for one in drawings)
    exceeded = "; ".join(
        f"it would take a {one.unit}'s {one.quantity} to {one.value:.5g}, {one.value - one.bound:.3g} above the "
        f"policy's {one.bound:g} ({one.key})"
        for one in found
    )
    fits = [f"all of it at mu {mu:g}"] if mu else []
    fits += [f"{tokens} of its {total} new private tokens as asked"] if tokens else []
    advice = f"would fit: {', or '.join(fits)}" if fits else "nothing of it would fit: wait, or change the policy"
    return LimitExceeded(
        f"this prompt exceeds the policy: {exceeded}; nothing was sent; {advice}",
        limit=found[0].key,
        value=found[0].value,
        bound=found[0].bound,
        largest_mu=mu,
        most_tokens=tokens,
    )


def _largest_mu(drawings: Sequence[Drawing], judge: Judge, dim: int) -> float | None:
    """The largest mu for the ordinary words, to three digits and rounded down, at which nothing is exceeded."""
    ordinary = [one.setting for one in drawings if not one.kind]
    if not ordinary:
        return None

    def fits(mu: float) -> bool:
        return not judge([one if one.kind else replace(one, setting=_at(mu, dim, one.setting)) for one in drawings])

    low, high = _LEAST_MU, max(setting.mu(dim) for setting in ordinary)
    if low >= high or not fits(low):
        return None
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _three_digits_down(low)


def _at(mu: float, dim: int, setting: NoiseSetting) -> NoiseSetting:
    """The setting at that mu, or as it is where it is stronger or nothing as strong exists."""
    try:
        changed = NoiseSetting.from_mu(mu, dim, setting.bits)
    except InvalidValue:
        return setting
    return changed if changed.scale > setting.scale else setting


def _three_digits_down(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.floor(value / unit) * unit:.12g}")


def _most_tokens(drawings: Sequence[Drawing], judge: Judge) -> int:
    """How many tokens fit, if ordinary words are left out from the end."""
    sensitive = sum(one.tokens for one in drawings if one.kind)
    low, high = -1, sum(one.tokens for one in drawings) - sensitive
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if judge(_first(drawings, middle)) else (middle, high)
    return max(low, 0) + sensitive if low >= 0 else 0


def _first(drawings: Sequence[Drawing], tokens: int) -> list[Drawing]:
    """The sensitive drawings, and the first `tokens` tokens of ordinary words."""
    kept = []
    for one in drawings:
        count = one.tokens if one.kind else min(one.tokens, tokens)
        tokens -= 0 if one.kind else count
        kept += [replace(one, tokens=count)] if count else []
    return kept
