"""`python -m benchmarks GROUP|all [--quick]` measures and reports; `report RUN` writes a run's report anew.

`document` writes the figures in README.md and docs/ anew from the committed results. `compare OLD NEW` compares two
runs. `targets [GROUP...]` prints a line for each target and exits with 1 if one falls short.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
from pathlib import Path

from benchmarks.compare import apart, changes
from benchmarks.document import documents, update
from benchmarks.harness import ALL, SECTIONS, report, run
from benchmarks.report.results import Result, Run
from benchmarks.section import Settings
from benchmarks.target import GROUPS, Target
from del_server.openmp import stay_awake

OUT = Path("build/benchmarks")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    targets = commands.add_parser("targets", help="name measured goal ok|short, a line each")
    targets.add_argument("groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP", help=", ".join(GROUPS))
    for group in [*SECTIONS, "all"]:
        _add_measuring(commands.add_parser(group, help="measure, and write a report"))
    comparing = commands.add_parser("compare", help="which figures became worse from one results.json to another")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    reporting = commands.add_parser("report", help="write the report of a results.json anew")
    reporting.add_argument("run", type=Path)
    reporting.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="(default: %(default)s)")
    commands.add_parser("document", help="write the figures in README.md and docs/ from the committed results")
    arguments = parser.parse_args()
    if "vllm" not in (getattr(arguments, "engine", ""), *getattr(arguments, "groups", ())):
        stay_awake()  # as the server does, so that what it is compared with waits no longer or shorter
    if arguments.command == "targets":
        return check(arguments.groups or GROUPS)
    if arguments.command == "compare":
        return compare(Run.read(arguments.old), Run.read(arguments.new))
    if arguments.command == "document":
        print(*(path.name for path in update(documents())), sep="\n")
        return 0
    if arguments.command == "report":
        report(Run.read(arguments.run), arguments.out)
        return 0
    settings = Settings(
        quick=arguments.quick,
        engine=arguments.engine,
        first_token_bound=arguments.first_token_bound,
        text=tuple(arguments.text),
        attack_text=tuple(arguments.attack_text),
        rounds=arguments.rounds,
        minutes=arguments.minutes,
        model=arguments.model,
        codec=arguments.codec,
        rate=arguments.rate,
    )
    groups = list(ALL) if arguments.command == "all" else [arguments.command]
    run(groups, settings, arguments.out)
    print(f"{arguments.out}/report.html, report.md, results.json, results.csv")
    return 0


def check(groups: list[str]) -> int:
    """Print the targets of these groups; 1 if one falls short."""
    results = []
    for group in groups:
        for target in _targets(group):
            line, ok = target.line()
            print(line, flush=True)
            results.append(ok)
    return 0 if all(results) else 1


def compare(old: Run, new: Run) -> int:
    """Print the figures that changed, and those whose spreads are apart; 1 if one became worse."""
    lying_apart, figures = apart(old, new)
    for was, result in lying_apart:
        spreads = " and ".join(f"{each.spread[0]:.4g} to {each.spread[1]:.4g}" for each in (was, result))
        print(f"apart: {_named(result)}: {spreads} {result.unit}".rstrip())
    print(f"{figures - len(lying_apart)} of {figures} figures agree within the spreads that both runs report")
    found = changes(old, new)
    for change in found:
        if change.verdict != "same":
            what = f"{change.ratio:.3g} times what it was (noise {change.noise:.2g})"
            print(f"{change.verdict}: {_named(change.result)}: {what}")
    worse = sum(change.verdict == "worse" for change in found)
    print(f"{len(found)} figures compared, {worse} worse")
    return 1 if worse else 0


def _named(result: Result) -> str:
    at = " ".join(f"{name}={value}" for name, value in result.at.items())
    return f"{result.group} {result.name}, {result.way} {at}".rstrip()


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    add = parser.add_argument
    add("--quick", action="store_true", help="less of everything")
    add("--rounds", type=int, default=0, metavar="N", help="processes that measure (default: each section's own)")
    add("--out", type=Path, default=OUT, metavar="DIR", help="where the report goes (default: %(default)s)")
    add("--engine", default=defaults.engine, metavar="E", help="of the server under load (default: %(default)s)")
    add(
        "--first-token-bound",
        type=float,
        default=defaults.first_token_bound,
        metavar="S",
        help="answers that begin later are no goodput (default: %(default)s)",
    )
    files = {"type": Path, "nargs": "+", "default": [], "metavar": "FILE"}
    add("--text", **files, help="for privacy and structure: what attacks are tried on (default: what comes along)")
    add("--attack-text", **files, help="for privacy: what attacks that learn learn from (default: they are left out)")
    soak = parser.add_argument_group("soak").add_argument
    soak("--minutes", type=float, default=defaults.minutes, metavar="M", help="how long (default: %(default)s)")
    soak("--model", default=defaults.model, metavar="M", help="of the server (default: %(default)s)")
    soak("--codec", type=Path, metavar="FOLDER", help="of the server (default: the shipped one)")
    soak("--rate", type=float, default=defaults.rate, metavar="R", help="visits a second (default: %(default)s)")


def _targets(group: str) -> list[Target]:
    """The targets of a group; a group without any yet has no module."""
    name = f"benchmarks.{group}"
    if importlib.util.find_spec(name) is None:
        return []
    found: list[Target] = importlib.import_module(name).TARGETS
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is open is put away
    sys.exit(main())
