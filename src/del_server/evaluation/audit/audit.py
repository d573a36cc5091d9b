"""The audit of one mechanism at one noise setting: lower bounds on epsilon, and tests that the exact one passes.

Everything together is wrong about an honest mechanism with a probability of at most 1 - confidence: half of that is for
the bounds, half is shared alike by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
from del_codec.release import check_delta, check_int
from del_codec.table import LatentTable
from del_server.evaluation.audit import goodness, repeats
from del_server.evaluation.audit.bounds import Bound, lower_bounds
from del_server.evaluation.audit.decisions import Randomizer, wrong_decisions
from del_server.evaluation.audit.pair import Pair
from del_server.evaluation.audit.recording import Frame, Recording, Sender, encoder, record
from del_server.evaluation.audit.seeds import enough_tokens, guessed

DELTAS = (1e-1, 1e-2, 1e-3, 1e-5)
CONFIDENCE = 0.95
FRAME_TOKENS = 32

_OF_DRAWS: dict[str, Callable[[Recording], float]] = {
    "counts": goodness.counts,
    "levels": goodness.levels,
    "tails": goodness.tails,
    "coordinates": goodness.coordinates,
    "repeats": repeats.repeats,
    "serial": repeats.serial,
}
TESTS = (*_OF_DRAWS, "seeds")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One test. p_value: of the honest mechanism looking at least as odd; of `format` and `decisions` 0 or 1."""

    test: str
    p_value: float
    alarm: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found. draws: of each token of the pair. tokens: of the unit that the bounds are of."""

    setting: NoiseSetting
    pair: Pair
    draws: int
    tokens: int
    confidence: float
    bounds: tuple[Bound, ...]
    findings: tuple[Finding, ...]

    @property
    def alarms(self) -> tuple[str, ...]:
        """What speaks against the mechanism: names of tests, and `epsilon` where the certificate is refuted."""
        refuted = ("epsilon",) if any(bound.refutes for bound in self.bounds) else ()
        return (*refuted, *(finding.test for finding in self.findings if finding.alarm))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, with each bound's ratio, ready for JSON."""
        facts = asdict(self)
        for bound, written in zip(self.bounds, facts["bounds"], strict=True):
            written["ratio"] = bound.ratio
        return facts | {"alarms": self.alarms}


def audit(
    table: LatentTable,
    pair: Pair,
    setting: NoiseSetting,
    draws: int,
    *,
    sender: Sender | None = None,
    randomizer: Randomizer = randomize,
    deltas: Sequence[float] = DELTAS,
    confidence: float = CONFIDENCE,
    frame_tokens: int = FRAME_TOKENS,
    tokens: int = 1,
) -> Audit:
    """Record `draws` draws of each token and test them. tokens: of the unit that the bounds are of.

    sender: where frames come from (None: this process's encoder). randomizer: what decides, for tests that choose its
    bytes. Raises InvalidValue.
    """
    _check(deltas, confidence)
    check_int("tokens", tokens, 1, max(draws, 1))
    source = sender or encoder(table)
    recording = record(source, table, pair, setting, draws, frame_tokens)
    short = [pair[0]] * enough_tokens(table, pair[0], setting)
    findings = examine(recording, [(pair[0], source(short, setting))], table, confidence)
    wrong = wrong_decisions(randomizer, table.rows(pair), setting)
    return Audit(
        setting,
        pair,
        recording.draws,
        tokens,
        confidence,
        tuple(lower_bounds(recording, deltas, (1 - confidence) / 2, tokens)),
        (*findings, _certain("decisions", wrong)),
    )


def examine(
    recording: Recording, frames: Sequence[tuple[int, Frame]], table: LatentTable, confidence: float
) -> tuple[Finding, ...]:
    """All tests of what was received; frames: a few of them, each with its token, whose seeds are guessed."""
    level = (1 - confidence) / 2 / len(TESTS)
    values = {name: test(recording) if recording.draws else 1.0 for name, test in _OF_DRAWS.items()}
    values["seeds"] = guessed(frames, table)
    around = [f"{len(recording.around)} different messages around the payloads"] if len(recording.around) > 1 else []
    found = [_certain("format", [*recording.refused, *around])]
    return (*found, *(Finding(name, value, value <= level) for name, value in values.items()))


def _certain(test: str, wrong: Sequence[str]) -> Finding:
    """A test that an honest mechanism can't fail."""
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return Finding(test, float(not wrong), bool(wrong), "; ".join(wrong[:_SHOWN]) + more)


def _check(deltas: Sequence[float], confidence: float) -> None:
    for delta in deltas:
        check_delta(delta)
    if not deltas or not 0.5 <= confidence < 1:
        raise InvalidValue("confidence", confidence, "use 0.5 to below 1, and one delta at least")
