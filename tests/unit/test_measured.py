"""What is said of a setting: measured rows as they stand, the device's own cap, and plainly where both are weak."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_table import small_spec

from del_client.measured import Protection, nearest_measured, verdict
from del_client.report import PrivacyReport
from del_codec.spec import Measured

ROWS = (Measured(10_000, 1, 387, 129), Measured(8_000, 1, 244, 84), Measured(12_000, 2, 500, 300))
SPEC = replace(small_spec(), measured=ROWS)


def report(mu: float, bits: int = 1, cap: float = 0.5) -> PrivacyReport:
    return PrivacyReport(1, mu, bits, 1e-5, 1.0, 1.0, cap, cap)


@pytest.mark.parametrize(
    ("mu", "bits", "row"),
    [
        (3, 1, 8_000),
        (8, 1, 8_000),
        (7.999997, 1, 8_000),
        (8.1, 1, 10_000),
        (10.1, 1, None),
        (8, 2, 12_000),
        (8, 4, None),
    ],
)
def test_the_nearest_row_is_that_of_no_stronger_noise_at_as_many_bits(mu: float, bits: int, row: int | None) -> None:
    found = nearest_measured(SPEC, mu, bits)
    assert (found and found.mu_milli) == row


@pytest.mark.parametrize(
    ("asked", "protection", "said"),
    [
        (report(3, cap=0.19), "proven", "Proven: no attack names a token from its own bits more often than 19%"),
        (report(3, cap=0.19), "proven", "8% of a prompt's usefulness was left. Answers mostly miss the point."),
        (report(8, cap=0.67181), "measured", "Measured, at mu 8: the best attack read 24% of the tokens"),
        (report(7, cap=0.5), "measured", "at mu 8, the nearest weaker noise that was measured"),
        (report(8, cap=0.67181), "measured", "Proven is only that no attack names a token from its own bits more"),
        (report(9, cap=0.8), "little", "This setting protects little. Measured, at mu 10"),
        (report(20, cap=0.9998), "little", "No attack was measured at noise this weak: at mu 10 the best one read 39%"),
        (report(20, cap=0.9998), "little", "Nothing that helps is proven: the cap on attacks is 100%."),
        (report(8, bits=4, cap=0.76), "little", "No attack was measured at 4 bits a coordinate."),
    ],
)  # fmt: skip
def test_a_verdict_says_what_protection_rests_on(asked: PrivacyReport, protection: Protection, said: str) -> None:
    found = verdict(SPEC, asked)
    assert found.protection == protection
    assert said in found.text


def test_a_verdict_quotes_a_row_or_says_that_there_is_none() -> None:
    assert verdict(SPEC, report(20, cap=1)).row == ROWS[0]
    assert verdict(SPEC, report(8, bits=4)).row is None
