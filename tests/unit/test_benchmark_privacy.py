"""The privacy section: what is proven of a setting, what stands beside it, and which setting is the answer."""

from __future__ import annotations

import pytest

from benchmarks import privacy_grid
from benchmarks.privacy_grid import BITS, BYTES, CAP, EPSILON, KEPT, READ, SECTION, committed, proven, recorded, sheets
from benchmarks.report.results import Recorder, Result, Run
from benchmarks.report.tables import table_rows
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable


def run_of(results: list[Result]) -> Run:
    return Run("python -m benchmarks privacy", "2026-01-01T00:00:00+00:00", 1.0, True, {}, tuple(results))


def figures(way: str, mu: float, bits: float, kept: float, read: float, epsilon: float) -> list[Result]:
    at = {"mu": mu, "bits": bits}
    named = {KEPT: kept, READ: read, EPSILON: epsilon, CAP: 0.5, BYTES: 8 * bits}
    return [Result("privacy", name, "", "neither", way, at, (value,)) for name, value in named.items()]


def test_more_bits_at_one_mu_cost_bytes_and_epsilon() -> None:
    record = Recorder("privacy")
    proven(LatentTable.load(codec_folders()[0] / DEVICE_FILE), "ours", 20.0, record)
    found = {(result.name, result.at["bits"]): result.median for result in record.results()}
    epsilons = [found[EPSILON, bits] for bits in BITS]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == pytest.approx(134.1, abs=0.1)  # the table in docs/results.md has it, too
    assert all(found[EPSILON, bits] < found["epsilon, 64 tokens", bits] for bits in BITS)
    assert [found[BYTES, bits] for bits in BITS] == [8.0 * bits for bits in BITS]


def test_what_was_evaluated_at_size_stands_beside_it() -> None:
    record = Recorder("privacy")
    committed(record)
    run = run_of(list(record.results()))
    rows = table_rows(run, "privacy", SECTION.tables[0])
    assert rows[0] == ("mu", "bits", "way", EPSILON, CAP, READ, KEPT, BYTES)
    guarded = next(row for row in rows if row[:3] == ("8", "1", "joint-guarded (at size)"))
    assert all(guarded)


def test_what_a_codec_carries_stands_beside_it() -> None:
    record = Recorder("privacy")
    table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    recorded(table, "ours (its card)", record)
    found = {(result.name, result.at["mu"], result.at["bits"]): result.median for result in record.results()}
    for row in table.spec.measured:
        assert found[READ, row.mu_milli / 1000, row.bits] == row.attack_success / 1000
        assert found[KEPT, row.mu_milli / 1000, row.bits] == row.retained / 1000
    assert len(found) == 5 * len(table.spec.measured)


def test_the_answer_keeps_most_under_its_bound_with_the_fewest_bits() -> None:
    results = [
        *figures("ours", 5, 1, 0.1, 0.2, 30),
        *figures("ours", 8, 1, 0.301, 0.4, 50),
        *figures("ours", 8, 4, 0.302, 0.45, 90),
        *figures("ours", 20, 1, 0.9, 0.95, 130),
    ]
    by_share, by_epsilon = sheets(run_of(results))
    chosen = {row[0]: row[1:4] for row in by_share.rows[1:]}
    assert chosen == {
        "0.05": ("none that was measured", "", ""),
        "0.1": ("none that was measured", "", ""),
        "0.25": ("ours", "1", "5"),
        "0.5": ("ours", "1", "8"),
        "0.75": ("ours", "1", "8"),
    }
    assert [row[3] for row in by_epsilon.rows[1:]] == ["", "5", "8", "8", "20"]


@pytest.mark.slow
def test_attacks_and_use_are_measured_on_the_sample() -> None:
    from benchmarks.section import Settings

    record = Recorder("privacy")
    with privacy_grid.steps(Settings(quick=True)) as steps:
        next(step for step in steps if step.label == "attacks, part 1 of 2").run(record)
    found = {(result.name, result.at["mu"], result.at["bits"]): result.median for result in record.results()}
    assert found[READ, 8.0, 1] >= found["ASR map", 8.0, 1] > found["ASR prior", 8.0, 1]
    assert len([name for name, *_ in found if name == KEPT]) == 2
    assert "4 of texts/scandal_in_bohemia.txt" in record.notes[0]
