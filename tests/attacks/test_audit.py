"""The audit: it refutes no honest mechanism, proves most of epsilon where a table has corners, and catches faults.

Every audit here is at a confidence of all but one in a million, so that an honest run fails about as often.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
from sabotaged import FAULTS
from scipy import stats

from del_codec import keystream as keystream_module
from del_codec.accounting import Release, epsilon
from del_codec.encode import encode
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_server import cli
from del_server.evaluation.audit import recording
from del_server.evaluation.audit.audit import Audit, audit
from del_server.evaluation.audit.bounds import lower_bound
from del_server.evaluation.audit.pair import corner_table, farthest_pair
from del_server.evaluation.audit.recording import Frame, Recording, encoder, record

SURE = 1 - 1e-6
DRAWS = 5_000
ODD_FRAME = 31  # tokens: with 15 dimensions of one bit, seven bits of padding


def audit_of(table: LatentTable, bits: int, draws: int = DRAWS, mu: float = 1.0, **changed: object) -> Audit:
    setting = NoiseSetting.from_mu(mu, table.spec.dim, bits)
    return audit(table, farthest_pair(table), setting, draws, confidence=SURE, frame_tokens=ODD_FRAME, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "dim"), [(1, 64), (3, 15), (8, 64)])
def test_the_honest_mechanism_passes(bits: int, dim: int) -> None:
    found = audit_of(corner_table(dim), bits)
    assert found.alarms == ()
    assert found.draws >= DRAWS


def test_the_shipped_codec_passes() -> None:
    assert audit_of(LatentTable.load(codec_folders()[0] / DEVICE_FILE), 1, mu=8).alarms == ()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str) -> None:
    fault = FAULTS[name]
    table = corner_table(fault.dim)
    sender, randomizer = fault.plant(table)
    found = audit_of(table, fault.bits, sender=sender, randomizer=randomizer)
    assert set(fault.caught_by) & set(found.alarms), found.alarms


def test_bounds_come_near_the_certificate() -> None:
    bound = audit_of(corner_table(64), 1, draws=60_000, deltas=(1e-2,)).bounds[0]
    assert 0.7 < bound.ratio <= 1


def test_bounds_of_prompts_come_near_theirs() -> None:
    bound = audit_of(corner_table(64), 1, draws=60_000, mu=0.5, deltas=(1e-2,), tokens=4).bounds[0]
    assert bound.certified == pytest.approx(
        epsilon(Release(4 * 64, NoiseSetting.from_mu(0.5, 64, 1).threshold_max()), 1e-2)
    )
    assert 0.5 < bound.ratio <= 1


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 4])
def test_a_million_draws_prove_nine_tenths_of_epsilon(bits: int) -> None:
    table = corner_table(64)
    found = audit(table, (0, 1), NoiseSetting.from_mu(1, 64, bits), 10**6, deltas=(1e-2,))
    assert not found.bounds[0].refutes
    assert found.bounds[0].ratio >= 0.9


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    for accepted, other, delta in [(500, 40, 1e-2), (1, 0, 0.0), (0, 3, 1e-3), (900, 1000, 0.1)]:
        low = stats.binomtest(accepted, 1000, alternative="greater").proportion_ci(1 - 0.005).low
        high = stats.binomtest(other, 1000, alternative="less").proportion_ci(1 - 0.005).high
        expected = max(0.0, np.log(max(low - delta, 1e-300) / high))
        assert lower_bound(accepted, other, (1000, 1000), delta, 0.01) == pytest.approx(expected)


def test_the_farthest_pair_is_found() -> None:
    assert farthest_pair(corner_table(8)) in [(0, 1), (2, 3)]
    rng = np.random.default_rng(0)
    spec = corner_table(8).spec
    for _ in range(20):
        latents = rng.integers(-127, 128, (4, 8)).astype(np.int8)
        table = LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, np.ones(4, dtype=np.uint32)))
        squares = {
            pair: np.square(np.diff(latents[list(pair)].astype(int), axis=0)).sum()
            for pair in itertools.combinations(range(4), 2)
        }
        assert squares[farthest_pair(table)] == max(squares.values())


def test_frames_that_differ_in_length_are_refused() -> None:
    table = corner_table(8)
    setting, send = NoiseSetting.from_mu(1, 8, 1), encoder(table)
    short = Frame(time.time(), encode(table, [0], setting))
    read = Recording.of(table, (0, 1), setting, [(send([0, 0], setting), send([1, 1], setting)), (short, short)])
    assert (read.draws, len(read.refused)) == (2, 2)


def test_no_clock_is_read_for_random_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the resolution: draws differ though every clock stands still."""
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"):
        monkeypatch.setattr(time, name, lambda: 0)
    table, setting = corner_table(64), NoiseSetting.from_mu(1, 64, 1)
    assert len({encode(table, [0] * 4, setting).payload for _ in range(50)}) == 50
    monkeypatch.setattr(keystream_module.os, "urandom", bytes)
    assert len({encode(table, [0] * 4, setting).payload for _ in range(50)}) == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"draws": 0}, "draws"),
        ({"draws": 10**12}, "draws"),
        ({"confidence": 1.0}, "confidence"),
        ({"deltas": ()}, "confidence"),
        ({"deltas": (1.0,)}, "delta"),
        ({"frame_tokens": 0}, "frame_tokens"),
        ({"tokens": 0}, "tokens"),
    ],
)
def test_what_can_t_be_audited_is_refused(changed: dict[str, object], field: str) -> None:
    table = corner_table(8)
    arguments = {"draws": 10, **changed}
    with pytest.raises(InvalidValue) as caught:
        audit(table, (0, 1), NoiseSetting.from_mu(1, 8, 1), **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_draws_are_recorded_in_turns() -> None:
    table = corner_table(8)
    asked: list[int] = []

    def send(ids: list[int], setting: NoiseSetting) -> Frame:
        asked.append(ids[0])
        return encoder(table)(ids, setting)

    read = record(send, table, (2, 3), NoiseSetting.from_mu(1, 8, 1), 10, 4)  # type: ignore[arg-type]
    assert asked == [2, 3] * 3
    assert [levels.shape for levels in read.levels] == [(12, 8)] * 2


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "audit.json"
    few = ["--dim", "8", "--draws", "2000", "--delta", "0.01", "--confidence", str(SURE), "--json", str(out)]
    assert cli.main(["audit", *few, "--bits", "1", "2"]) == 0
    facts = json.loads(out.read_text())
    assert [one["setting"]["bits"] for one in facts["audits"]] == [1, 2]
    assert all(one["alarms"] == [] for one in facts["audits"])
    assert capsys.readouterr().out.count("no alarm") == 2


def test_the_command_exits_with_1_after_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "encode", lambda table, ids, setting: encode(table, [0] * len(ids), setting))
    with pytest.raises(SystemExit) as caught:
        cli.main(["audit", "--dim", "16", "--draws", "2000", "--mu", "5", "--delta", "0.01"])
    assert caught.value.code == 1


def test_the_command_refuses_what_it_can_t_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "--draws", "0"]) == 2
    assert cli.main(["audit", "--codec", str(tmp_path)]) == 2
    assert "draws is 0" in capsys.readouterr().err
