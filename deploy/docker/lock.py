"""The images' locks: every distribution with its version and hashes, under the versions that the tests ran with.

`--check` looks only, without a network: each lock agrees with constraints.txt and holds what pyproject.toml asks for.
`--installed` writes constraints-development.txt: what this environment has of everything that developing asks for, the
indirect ones too, beside those that constraints.txt names. `make` installs exactly these.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "docker"
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
DEVELOPMENT = ROOT / "deploy" / "constraints-development.txt"
# The extra of each image; build.lock holds the build's backend.
EXTRAS = {"device": "gateway", "server": "server"}
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def main() -> int:
    """Write the locks, or with --check say what is wrong with them; 0 if nothing is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--installed", action="store_true")
    told = parser.parse_args()
    if told.installed:
        DEVELOPMENT.write_text("# The rest of what the tests ran with (make pins).\n" + "\n".join(installed()) + "\n")
        return 0
    if told.check:
        wrong = [line for name in (*EXTRAS, "build") for line in problems(name)]
        print("\n".join(wrong), end="\n" * bool(wrong))
        return int(bool(wrong))
    for name, extra in EXTRAS.items():
        compile_lock(name, ["pyproject.toml", f"--extra={extra}"])
    compile_lock("build", ["-"], stdin="\n".join(_project()["build-system"]["requires"]))
    return 0


def compile_lock(name: str, source: list[str], stdin: str | None = None) -> None:
    """Resolve for every Python and platform at once, with uv, and write NAME.lock."""
    options = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--no-annotate", "--upgrade"]
    # A release that was withdrawn, or taken over, is mostly found out within days.
    options += ["--exclude-newer=7 days"]
    command = ["uv", "pip", "compile", *source, *options, f"--constraint={CONSTRAINTS}"]
    command += ["--custom-compile-command=make lock", f"--output-file={FOLDER / name}.lock", "--quiet"]
    subprocess.run(command, input=stdin, text=True, check=True, cwd=ROOT)


def problems(name: str) -> list[str]:
    """What NAME.lock has against constraints.txt and pyproject.toml, in words."""
    locked = pins(FOLDER / f"{name}.lock")
    tested = pins(CONSTRAINTS)
    lines = [
        f"{name}.lock: {package} {locked[package]}, and tested was {version}: run make lock"
        for package, version in tested.items()
        if locked.get(package, version) != version
    ]
    for requirement in required(name):
        version = locked.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            lines.append(f"{name}.lock: {requirement}, and locked is {version}: run make lock")
    return lines


def installed(extra: str = "dev") -> list[str]:
    """name==version of what an extra of the project brings here, by name, but for what constraints.txt names."""
    project = _project()["project"]
    ahead = [Requirement(f"{project['name']}[{extra}]")]
    seen: set[tuple[str, str]] = set()
    versions: dict[str, str] = {}
    while ahead:
        requirement = ahead.pop()
        name = canonicalize_name(requirement.name)
        for part in {"", *requirement.extras} - {part for each, part in seen if each == name}:
            seen.add((name, part))
            if name == project["name"]:
                texts = project["optional-dependencies"][part] if part else project["dependencies"]
            else:
                versions[name] = importlib.metadata.version(name).partition("+")[0]
                texts = importlib.metadata.requires(name) or []
            wanted = [Requirement(text) for text in texts]
            ahead += [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": part})]
    return sorted(f"{name}=={version}" for name, version in versions.items() if name not in pins(CONSTRAINTS))


def pins(path: Path) -> dict[str, str]:
    """Name to version of a lock or of constraints."""
    return {canonicalize_name(name): version for name, version in PINNED.findall(path.read_text())}


def required(name: str) -> list[Requirement]:
    """What the project itself asks for in that image."""
    project = _project()
    if name == "build":
        return [Requirement(text) for text in project["build-system"]["requires"]]
    texts = project["project"]["dependencies"] + project["project"]["optional-dependencies"][EXTRAS[name]]
    return [Requirement(text) for text in texts]


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


if __name__ == "__main__":
    sys.exit(main())
