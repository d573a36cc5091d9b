"""The growth section: what a fleet takes follows from exact laws as arithmetic says, and works are measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import growth_local as local
from benchmarks import growth_served as served
from benchmarks.fleet import ASSUMED, FLEETS, one_prompt, predictions
from benchmarks.growth import SECTION
from benchmarks.growth_local import by_prompts, message_bytes, shipped, table_bytes
from benchmarks.report.fits import fit, growth_rows
from benchmarks.report.results import Place, Recorder, Result, Run
from benchmarks.server_process import started
from del_client.ledger import MAX_LEDGER_BYTES
from del_codec.table import LatentTable


def result(name: str, way: str, at: Place, *values: float) -> Result:
    return Result("growth", name, "", "neither", way, at, values)


def run_of(*results: Result) -> Run:
    return Run("python -m benchmarks growth", "2026-01-01T00:00:00+00:00", 1.0, True, {"cores": "2"}, results)


def exact(ledger_bytes: float = 500.0) -> Run:
    """Everything grows by a power law without any scatter: one second a thousand tokens, 1,000 bytes a turn."""
    return run_of(
        *(result(local.TIME, local.MODEL, {local.PROMPT: n}, n / 1000) for n in (16, 64, 256)),
        *(result(local.TIME, local.DECODE, {local.PROMPT: n}, n / 1000) for n in (16, 64, 256)),
        *(result(local.BYTES, local.MESSAGES, {served.TURN: n}, 1000 * n) for n in (1, 2, 4, 8)),
        *(result(local.BYTES, local.LEDGER, {local.PROMPTS: n}, ledger_bytes * n) for n in (64, 128, 256)),
        *(result(served.MEMORY, served.STUB, {served.CONNECTED: n}, 50_000 * n) for n in (1, 16, 128)),
        result(served.DOWN, served.DEVICE, {served.TURN: 4}, 20.0),
        result(served.THROUGHPUT, served.SERVER, {served.STREAMS: 16}, 100.0, 200.0, 400.0),
    )


def test_one_prompt_is_what_the_lines_say() -> None:
    one = one_prompt(exact(), ASSUMED)
    assert one is not None
    # 64 tokens at 200 a second, and 192 tokens more than the load had, read and decoded by two cores.
    assert one.server_seconds.value == pytest.approx(64 / 200 + 2 * 0.192 / 2)
    assert one.server_seconds.low == pytest.approx(64 / 400 + 0.192)
    assert one.bytes_up.value == pytest.approx(2500)
    assert one.bytes_down.value == pytest.approx(64 * 20)
    assert one.connection_bytes.value == pytest.approx(50_000)
    assert one.ledger.value == pytest.approx(500 * 20 * 365)


def test_fleets_grow_with_their_devices() -> None:
    fleet, assumed, measured = predictions(exact())
    rows = {row[0]: row[1:] for row in fleet.rows}
    assert rows[""] == tuple(f"{devices:,} devices" for devices in FLEETS)
    a_second = 1000 * 20 * 0.12 / 3600
    assert rows["prompts a second"] == ("0.667", "66.7", "6,667")
    least, most = (a_second / 0.6 * (64 / rate + 0.192) for rate in (400, 100))
    assert (round(least, 2), round(most, 2)) == (0.39, 0.92)
    assert rows["servers"][0] == "1"
    assert rows["servers"][2] == "5,689 (3,912 to 9,245)"
    assert rows["up, Mbit/s"][2] == "133"
    assert len(assumed.rows) == 1 + len(ASSUMED.__slots__)
    assert ("ledger by prompts: exponent", "1.00 (1.00 to 1.00)") in measured.rows


def test_a_ledger_ends_where_its_file_may() -> None:
    one = one_prompt(exact(ledger_bytes=1e6), ASSUMED)
    assert one is not None
    assert one.ledger.value == MAX_LEDGER_BYTES


@pytest.mark.parametrize("missing", [local.TIME, local.BYTES, served.DOWN, served.THROUGHPUT, served.MEMORY])
def test_nothing_is_predicted_from_half_a_run(missing: str) -> None:
    whole = exact()
    half = replace(whole, results=tuple(each for each in whole.results if each.name != missing))
    assert predictions(half) == ()


def test_a_fit_widens_outside_of_what_was_measured() -> None:
    line = fit([(1.0, 1.0), (2.0, 2.2), (4.0, 3.8), (8.0, 8.3)])
    assert line is not None
    near, far = line.at(3.0), line.at(300.0)
    assert near.low < near.value < near.high
    assert far.high / far.low > near.high / near.low


def test_bytes_grow_as_they_are_counted() -> None:
    record = Recorder("growth")
    for prompts in (1, 40, 80):
        by_prompts(prompts, record)
    sizes = [each.median for each in record.results()]
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] - sizes[-2] < 80 * 2000
    table = shipped()
    assert message_bytes(table, 1024) - message_bytes(table, 512) == pytest.approx(512 * 8, abs=8)


def test_a_table_of_any_size_can_be_made() -> None:
    table = LatentTable.from_bytes(table_bytes(300, 16))
    assert (table.spec.vocabulary, table.spec.dim) == (300, 16)


def test_every_cause_has_its_lines() -> None:
    causes = {plot.x for plot in SECTION.plots}
    assert causes == {
        *(local.PROMPT, "dim", "vocabulary", local.PROMPTS),
        *(served.STREAMS, served.CONNECTED, served.TURN),
    }
    rows = growth_rows(exact(), "growth", SECTION.plots)
    assert (local.BYTES, served.TURN, local.MESSAGES, "1.00") in [row[:4] for row in rows]


@pytest.mark.slow
def test_what_takes_a_server_is_measured_on_one_without_a_model() -> None:
    record = Recorder("growth")
    with started("benchmarks.stub") as server:
        for count in (1, 8):
            served.by_streams_without_model(server, count, 16, record)
        served.conversation(server, (1, 2, 3), 4, record)
    found = {(each.name, each.way, *each.at.items()): each.median for each in record.results()}
    sent = [found[local.BYTES, local.MESSAGES, (served.TURN, turn)] for turn in (1, 2, 3)]
    assert sent == sorted(set(sent))
    assert found[local.BYTES, served.SO_FAR, (served.TURN, 3)] == sum(sent)
    assert found[served.SHARED, served.STUB, (served.STREAMS, 8)] > 0
    assert found[served.DOWN, served.DEVICE, (served.TURN, 1)] > 1


def test_connected_devices_take_some_kilobytes_each() -> None:
    record = Recorder("growth")
    served.by_connected(256, record)
    (memory,) = record.results()
    assert 4e3 < memory.median / 256 < 4e5
