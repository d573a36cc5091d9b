"""A short soak on the tiny model: every visit ends as it may, every token is the right one, and nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.report.results import Recorder, Result
from benchmarks.soak import SERVER, UNCHARGED, Ground, soaking


def soak(model: Path, codec: Path, seconds: float) -> Mapping[tuple[object, ...], Result]:
    record = Recorder("soak")
    with soaking(seconds / 60, Ground(str(model), codec, rate=15.0)) as (_, steps):
        for step in steps:
            step.run(record)
    return {(result.name, result.way, *result.at.values()): result for result in record.results()}


@pytest.mark.slow
def test_twenty_seconds(tiny_model: Path, tiny_codec: Path) -> None:
    found = soak(tiny_model, tiny_codec, 20)
    for name in ("visits astray", *UNCHARGED):
        assert found[name, "all"].median == 0, [key for key in found if key[0] == "visits"]
    assert found["tokens checked", "all"].median > 50
    assert found["private tokens sent", "all"].median > 0
    assert found["server's queries", SERVER, "failed"].median == 0
    assert found["server's queries", SERVER, "abandoned"].median > 0
    for name in ("places taken", "slots taken", "keys and values promised"):
        readings = [result.median for key, result in found.items() if key[:2] == (name, SERVER)]
        assert readings
        assert not any(readings)
