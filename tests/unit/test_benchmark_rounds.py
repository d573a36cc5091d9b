"""A section measured in rounds: each by a process of its own, all of them in one result."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import harness, one_round, rounds
from benchmarks.report.results import Recorder, Result, Run
from benchmarks.rounds import arguments, from_arguments, joined, measure_all
from benchmarks.section import Section, Settings, Step
from del_codec.errors import InvalidValue


def result(*values: float, units: tuple[float, ...] = (), way: str = "ours") -> Result:
    return Result("x", "time", "s", "lower", way, {"size": 1}, values, units=units)


@contextmanager
def steps(settings: Settings):  # type: ignore[no-untyped-def]
    def once(record: Recorder) -> None:
        record.add("time", 1.0, "s", "lower", "ours", {})
        record.notes.append("so it is")

    yield [Step("one", once)] * 2


SECTION = Section("x", "X", "About.", steps, (), (), rounds=3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of rounds, each done in this process."""
    commands: list[list[str]] = []

    class Done:
        """Popen's, as far as it is used."""

        def __init__(self, command: list[str]) -> None:
            commands.append(command)
            one_round.main(*command[3:])

        def __enter__(self) -> Done:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def wait(self) -> int:
            return 0

        def terminate(self) -> None: ...

    monkeypatch.setattr(rounds.subprocess, "Popen", Done)
    monkeypatch.setattr(one_round, "section", lambda group: SECTION)
    return commands


def test_repeats_of_all_rounds_are_one_result_in_their_order() -> None:
    first = [result(1, 2, units=(0.1, 0.2)), result(9, way="theirs")]
    second = [result(3, units=(0.3,)), result(8, way="theirs")]
    ours, theirs = joined([first, second])
    assert (ours.values, ours.units, ours.rounds) == ((1, 2, 3), (0.1, 0.2, 0.3), (2, 1))
    assert (theirs.values, theirs.rounds) == ((9, 8), (1, 1))


@pytest.mark.parametrize(
    ("settings", "processes"),
    [(Settings(), 3), (Settings(quick=True), 0), (Settings(quick=True, rounds=2), 2), (Settings(rounds=1), 0)],
)
def test_a_section_says_in_how_many_rounds_unless_told(
    asked: list[list[str]], settings: Settings, processes: int
) -> None:
    (found,), notes = measure_all(SECTION, settings)
    assert len(asked) == processes
    assert found.values == (1.0,) * 2 * max(processes, 1)
    assert found.rounds == (2,) * processes
    assert set(notes.split(". ")) == {"so it is so it is"}


def test_a_round_is_a_process_that_runs_one_round() -> None:
    settings = Settings(quick=True, text=(Path("a"), Path("b")), codec=Path("c"), rounds=7)
    assert from_arguments(arguments(settings)) == replace(settings, rounds=1)


def test_a_process_leaves_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_round, "section", lambda group: SECTION)
    one_round.main("x", str(tmp_path / "a.json"), arguments(Settings(quick=True)), " 1/1")
    run = Run.read(tmp_path / "a.json")
    assert [found.values for found in run.results] == [(1.0, 1.0)]
    assert run.notes == {"x": "so it is so it is"}
    assert run.quick


def test_fewer_rounds_than_none_are_refused() -> None:
    with pytest.raises(InvalidValue, match="rounds is -1"):
        Settings(rounds=-1)


def test_the_command_line_asks_for_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import __main__ as command

    told: list[Settings] = []
    monkeypatch.setattr(command, "run", lambda groups, settings, folder: told.append(settings))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "codec", "--rounds", "4", "--out", str(tmp_path)])
    assert command.main() == 0
    assert [settings.rounds for settings in told] == [4]
    assert "codec" in harness.SECTIONS
