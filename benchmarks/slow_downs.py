"""`python -m benchmarks.slow_downs`: does `compare` find what it should, and nothing else?

TRIALS times: a run, another of the same code, and one whose encoding or whose service loop takes SLOWER more CPU time.
Prints how many slow-downs were found and how many runs of the same code were told from each other; --out leaves that as
a run of the benchmarks.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import trange

from benchmarks.codec_ways import encoding
from benchmarks.compare import changes
from benchmarks.report.machine import describe
from benchmarks.report.results import Recorder, Run
from benchmarks.service_loop import service_loop
from benchmarks.turns import in_turns

SLOWER = 0.3
REPEATS = 31
GROUP = "slow-downs"
LEAST = 0.95
FOUND, QUIET = f"slow-downs of {SLOWER:.0%} found", "comparisons of the same code found nothing"
Works = dict[str, Callable[[], object]]


def slowed(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, and then idle arithmetic for SLOWER of the CPU time that it took."""

    def slow() -> object:
        started = time.process_time()
        done = work()
        end = time.process_time() + SLOWER * (time.process_time() - started)
        while time.process_time() < end:
            pass
        return done

    return slow


def measured(works: Works) -> Run:
    """A run of these works alone."""
    record = Recorder(GROUP)
    for name, turns in in_turns(works, REPEATS).items():
        for turn in turns:
            record.add(name, turn.seconds, "s", "lower", "del", {}, beside=turn.unit)
    return Run(GROUP, "", 0.0, True, {}, tuple(record.results()))


def worse(old: Run, new: Run) -> set[str]:
    """Names of the figures that became worse."""
    return {change.result.name for change in changes(old, new) if change.verdict == "worse"}


def main() -> int:
    """Count; 1 if fewer than 19 of 20 come out right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_downs", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    arguments = parser.parse_args()
    machine, started, began = describe(), datetime.datetime.now(datetime.UTC), time.monotonic()
    record = Recorder(GROUP)
    tried(arguments.trials, record)
    counts = list(record.results())
    for count in counts:
        print(f"{count.median:.0f} of {arguments.trials} {count.name}: {count.way}")
    if arguments.out:
        command = f"python -m benchmarks.slow_downs {' '.join(sys.argv[1:])}"
        lasted = time.monotonic() - began
        Run(command, started.isoformat(timespec="seconds"), lasted, False, machine, tuple(counts)).write_json(
            arguments.out
        )
    return 0 if min(count.median for count in counts) >= LEAST * arguments.trials else 1


def tried(trials: int, record: Recorder) -> None:
    """How many of so many trials came out right."""
    works: Works = {"encode": encoding(1), "service loop": service_loop()}
    found, quiet = dict.fromkeys(works, 0), 0
    for _ in trange(trials, unit="trial"):
        base = measured(works)
        quiet += not worse(base, measured(works))
        for name in works:
            found[name] += name in worse(base, measured({**works, name: slowed(works[name])}))
    counts = {**{(FOUND, name): count for name, count in found.items()}, (QUIET, "both"): quiet}
    for (name, way), count in counts.items():
        record.add(name, count, "", "higher", way, {"trials": trials})


if __name__ == "__main__":
    sys.exit(main())
