"""`python -m benchmarks targets [GROUP...]`: measure the targets of these groups (default: all), a line each.

Exit code 1 if one falls short.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

from benchmarks.target import GROUPS, Target


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    targets = commands.add_parser("targets", help="name measured goal ok|short, a line each")
    targets.add_argument("groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP", help=", ".join(GROUPS))
    chosen = parser.parse_args().groups or GROUPS
    results = []
    for group in chosen:
        for target in _targets(group):
            line, ok = target.line()
            print(line, flush=True)
            results.append(ok)
    return 0 if all(results) else 1


def _targets(group: str) -> list[Target]:
    """The targets of a group; a group without any yet has no module."""
    name = f"benchmarks.{group}"
    if importlib.util.find_spec(name) is None:
        return []
    found: list[Target] = importlib.import_module(name).TARGETS
    return found


if __name__ == "__main__":
    sys.exit(main())
