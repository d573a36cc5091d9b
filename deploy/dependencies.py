"""What the images install from others: under which licences, and what is known against it.

`licences` writes the tables of docs/dependencies.md from what the index says of every locked distribution.
`audit` asks PyPI's advisories about each (by pip-audit), and the index whether one was withdrawn and which patch
releases there are. Exit code 1: something is known against one, or a licence is not allowed; 3: nobody could be asked.

Needs pip 25 and pip-audit; `make licences` and `make audit` set them up. Nothing but metadata is downloaded. What a
marker in a lock keeps off this system (Windows, a browser, another Python) is not looked at.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {image: ROOT / "deploy" / "docker" / f"{image}.lock" for image in ("device", "server")}
PAGE = ROOT / "docs" / "dependencies.md"
LOCKED = re.compile(r"^[A-Za-z0-9._-]+==[^\\\n]+", re.MULTILINE)
ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([0-9][^ |]*) \| ([^|]+) \|$", re.MULTILINE)

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC"}
PERMISSIVE |= {"LLVM-exception", "MIT", "MIT-0", "PSF-2.0", "Zlib"}
# MPL-2.0 binds files that are changed, and none is. A server's torch brings NVIDIA's libraries.
ALLOWED: Mapping[str, set[str]] = {
    "device": PERMISSIVE | {"MPL-2.0"},
    "server": PERMISSIVE | {"MPL-2.0", "LicenseRef-NVIDIA-Proprietary"},
}
# Of distributions that don't say it in SPDX's words. "BSD" is what a classifier says, and no more.
SPOKEN = {
    **dict.fromkeys(("Apache", "Apache 2.0", "Apache License 2.0", "Apache 2.0 License"), "Apache-2.0"),
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: BSD License": "BSD",
    "ISC License": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
}
# Says nothing of itself: it holds no file but the names of NVIDIA's libraries.
READ_BY_HAND = {"cuda-toolkit": "LicenseRef-NVIDIA-Proprietary"}


class Unanswered(Exception):
    """The index, or the service of advisories, could not be asked."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """One of a lock, as the index describes it."""

    name: str
    version: str
    licence: str
    withdrawn: bool


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["licences", "audit"])
    try:
        return write_licences() if parser.parse_args().what == "licences" else audit()
    except Unanswered as error:
        print(f"not looked at: {error}")
        return 3


def write_licences() -> int:
    """Put the tables into the page; 1 if a licence is not allowed."""
    text, wrong = PAGE.read_text(), list[str]()
    for image, lock in LOCKS.items():
        found = described(lock)
        before, rest = text.split(f"<!-- {image} -->\n")
        after = rest[rest.index("<!-- end -->") :]
        text = f"{before}<!-- {image} -->\n{_table(found, lock)}{after}"
        wrong += [f"{image}: {one.name} is under {one.licence}" for one in found if not allowed(image, one.licence)]
    PAGE.write_text(text)
    print("\n".join(wrong) or "every licence is allowed")
    return int(bool(wrong))


def _table(found: Sequence[Distribution], lock: Path) -> str:
    rows = "".join(f"| {one.name} | {one.version} | {one.licence} |\n" for one in found)
    seen = {(one.name, one.version) for one in found}
    others = [each for each in locked(lock) if (canonicalize_name(each.name), str(each.specifier)[2:]) not in seen]
    names = ", ".join(f"{each.name} {str(each.specifier)[2:]}" for each in others)
    return f"| distribution | version | licence |\n|---|---|---|\n{rows}\nFor other systems alone: {names}.\n"


def audit() -> int:
    """Print what is known against what is locked; 1 if something is."""
    found = {image: described(lock) for image, lock in LOCKS.items()}
    every = sorted({(one.name, one.version) for lock in found.values() for one in lock})
    wrong = [f"{one.name} {one.version} was withdrawn" for lock in found.values() for one in lock if one.withdrawn]
    for name, version in every:
        if (newer := latest_patch(version, _versions(name))) != version:
            print(f"{name} {version}: there is {newer}")
    print(f"{len(every)} distributions are in the index with the hashes that are locked, {len(wrong)} withdrawn")
    wrong += [line for lock in LOCKS.values() for line in advisories(lock)]
    print("\n".join(dict.fromkeys(wrong)) or "no advisory is known against any of them")
    return int(bool(wrong))


def described(lock: Path) -> list[Distribution]:
    """What a lock installs here, by name. Raises Unanswered where the index can't be read, or has other hashes."""
    command = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--require-hashes", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        _pip([*command, f"--report={report}", f"--requirement={lock}"])
        installs = json.loads(report.read_text())["install"]
    return sorted((_distribution(one) for one in installs), key=lambda one: one.name)


def _distribution(install: Mapping[str, Any]) -> Distribution:
    metadata = install["metadata"]
    name = canonicalize_name(metadata["name"])
    return Distribution(name, metadata["version"], licence_of(name, metadata), install["is_yanked"])


def licence_of(name: str, metadata: Mapping[str, Any]) -> str:
    """In SPDX's words: the expression, else the licence's name, else the classifiers; as it is where none is known."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    said = [metadata.get("license") or "", *metadata.get("classifier", ())]
    known = [SPOKEN.get(words, words) for words in said if words in SPOKEN or licences(words) <= ALLOWED["server"]]
    return READ_BY_HAND.get(name) or (known[0] if known else f"unknown: {said[0] or 'nothing said'}")


def allowed(image: str, licence: str) -> bool:
    """Whether every licence that an expression names is allowed in that image."""
    return licences(licence) <= ALLOWED[image]


def licences(expression: str) -> set[str]:
    """The names in an SPDX expression; a licence's text is one long name."""
    if "\n" in expression:
        return {expression}
    return set(re.split(r" (?:AND|OR|WITH) |[()]", expression))


def advisories(lock: Path) -> list[str]:
    """What PyPI's advisories have against a lock, a line each. Raises Unanswered if any distribution wasn't found."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format=json"]
    done = subprocess.run([*command, "--progress-spinner=off", f"--requirement={lock}"], capture_output=True, text=True)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise Unanswered(f"pip-audit: {done.stderr.strip().splitlines()[-1:]}") from None
    if skipped := [one["name"] for one in answers if "skip_reason" in one]:
        raise Unanswered(
            f"advisories of {len(skipped)} of {len(answers)} distributions in {lock.name}: {skipped[0]}, ..."
        )
    return [
        f"{one['name']} {one['version']}: {known['id']}, mended in {', '.join(known['fix_versions']) or 'none'}"
        for one in answers
        for known in one["vulns"]
    ]


def latest_patch(version: str, versions: Sequence[str]) -> str:
    """The newest of the versions that differs from this one in the last of its three numbers alone."""
    own = Version(version)
    patches = [each for each in map(Version, versions) if each.release[:2] == own.release[:2]]
    return str(max([own, *(each for each in patches if not (each.is_prerelease or each.local))]))


def locked(lock: Path) -> list[Requirement]:
    """Name, version and marker of everything in a lock."""
    return [Requirement(text) for text in LOCKED.findall(lock.read_text())]


def _versions(name: str) -> list[str]:
    versions: list[str] = json.loads(_pip(["index", "versions", "--json", name]))["versions"]
    return versions


def _pip(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise Unanswered(f"pip {arguments[0]}: {errors[-1].strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
