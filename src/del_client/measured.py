"""What a codec's maker measured near a setting, and what a setting's protection amounts to, in plain words.

Measurements are read as they stand: nothing is interpolated, and what was not measured is called so. Knows nothing of
prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from del_client.defaults import MOST_RECOVERED
from del_client.report import PrivacyReport
from del_codec.spec import CodecSpec, Measured

# From here on a proven cap, or below it a measured attack, is worth being relied upon; from _NO_CAP on a cap is none.
_STRONG_CAP = 0.25
_NO_CAP = 0.9
# Thousandths of a prompt's usefulness, below which answers are mostly about something else.
_MISSED = 250
_SAME_MU = 1.001

Protection = Literal["proven", "measured", "little"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a setting's protection rests on, and a sentence or two that say so.

    row: the measurement that they quote: of the nearest setting at or above the one in use (more mu, less noise); where
    there is none, of the weakest noise that was measured; None where nothing was, at so many bits.
    """

    protection: Protection
    text: str
    row: Measured | None


def nearest_measured(spec: CodecSpec, mu: float, bits: int) -> Measured | None:
    """The row of the smallest mu that is not below `mu`, at as many bits; None where there is none."""
    above = [row for row in spec.measured if row.bits == bits and row.mu_milli * _SAME_MU >= mu * 1000]
    return min(above, key=lambda row: row.mu_milli, default=None)


def verdict(spec: CodecSpec, report: PrivacyReport) -> Verdict:
    """On the setting that a report names; its cap is the device's own, the measurements are the codec's maker's."""
    cap = f"no attack names a token from its own bits more often than {_percent(report.cap_prior)}"
    row = nearest_measured(spec, report.mu, report.bits)
    measured = _measured(row, report.mu) if row else _unmeasured(spec, report)
    if report.cap_prior <= _STRONG_CAP:
        return Verdict("proven", f"Proven: {cap}. {measured}", row)
    proven = f"Proven is only that {cap}."
    if report.cap_prior > _NO_CAP:
        proven = f"Nothing that helps is proven: the cap on attacks is {_percent(report.cap_prior)}."
    if row is not None and row.attack_success <= MOST_RECOVERED:
        return Verdict("measured", f"{measured} {proven}", row)
    return Verdict("little", f"This setting protects little. {measured} {proven}", row or _weakest(spec, report.bits))


def _measured(row: Measured, mu: float) -> str:
    where = f"at mu {row.mu_milli / 1000:g}"
    if row.mu_milli > mu * 1000 * _SAME_MU:
        where += ", the nearest weaker noise that was measured"
    missed = " Answers mostly miss the point." if row.retained < _MISSED else ""
    return (
        f"Measured, {where}: the best attack read {_share(row)} of the tokens, and "
        f"{max(0, row.retained) / 1000:.0%} of a prompt's usefulness was left.{missed}"
    )


def _unmeasured(spec: CodecSpec, report: PrivacyReport) -> str:
    row = _weakest(spec, report.bits)
    if row is None:
        return f"No attack was measured at {report.bits} bits a coordinate."
    return (
        f"No attack was measured at noise this weak: at mu {row.mu_milli / 1000:g} the best one read "
        f"{_share(row)} of the tokens already, so expect more here."
    )


def _weakest(spec: CodecSpec, bits: int) -> Measured | None:
    return max((row for row in spec.measured if row.bits == bits), key=lambda row: row.mu_milli, default=None)


def _share(row: Measured) -> str:
    return "over 99%" if 990 < row.attack_success < 1000 else f"{row.attack_success / 1000:.0%}"


def _percent(share: float) -> str:
    """Rounded up, so that it stays a bound."""
    return f"{min(100, -(-share * 1000 // 1) / 10):g}%"
