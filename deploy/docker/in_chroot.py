"""A Dockerfile's steps where no Docker engine runs: each stage a copy of a base root, each RUN in a chroot of its own.

Needs root and a base made by debootstrap. Knows the instructions that our Dockerfiles use and refuses others. It has no
layers and no limits, and isolates files, mounts and processes only: no substitute for an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

# They say how an image is used and change none of its files.
DECLARED = {"ARG", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "LABEL", "COMMENT"}
# The host's certificates, which a build needs where packages come through a proxy, and no image keeps.
AUTHORITIES = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
TRUSTED = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), "/run/authorities.pem")
ENTER = """
set -eu; root=$1 user=$2 authorities=$3; shift 3
mount --bind /dev "$root/dev"; mount -t proc proc "$root/proc"
touch "$root/etc/resolv.conf" "$root/run/authorities.pem"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"; mount --bind "$authorities" "$root/run/authorities.pem"
exec chroot --userspec="$user" "$root" "$@"
"""


@dataclass
class Stage:
    """One stage: its root folder, and what its instructions have set so far."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    folder: str = "/"
    user: str = "0:0"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def inside(self, words: list[str]) -> list[str]:
        """The command that runs `words` in the root, as the stage's user, in namespaces of its own."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", ENTER, "enter"]
        settings = [f"{name}={value}" for name, value in (TRUSTED | self.env).items()]
        clean = ["/usr/bin/env", "-i", f"--chdir={self.folder}", *settings]
        return [*enter, str(self.root), self.user, AUTHORITIES, *clean, *words]


def build(dockerfile: Path, context: Path, base: Path, work: Path) -> Stage:
    """Do all stages under `work` and return the last. Raises CalledProcessError for a RUN that fails."""
    with dockerfile.open("rb") as stream:
        steps = DockerfileParser(fileobj=stream).structure
    stages: dict[str, Stage] = {}
    for step in steps:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            name = value.split()[-1] if " AS " in value else "last"
            stage = stages[name] = Stage(work / name)
            subprocess.run(["cp", "-a", "--reflink=auto", base, stage.root], check=True)
        elif instruction not in DECLARED:
            print(f"{instruction} {value[:100]}", flush=True)
            do(instruction, value, stage, stages, context)
    return stage


def do(instruction: str, value: str, stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    """One instruction of one stage."""
    match instruction:
        case "RUN":
            subprocess.run(stage.inside([*stage.shell, value]), check=True)
        case "COPY":
            copy(shlex.split(value), stage, stages, context)
        case "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(value))
            stage.env |= {name: string.Template(text).safe_substitute(stage.env) for name, text in pairs}
        case "WORKDIR":
            stage.folder = value
            inside(stage, value).mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = value
        case "SHELL" | "ENTRYPOINT" | "CMD":
            setattr(stage, "command" if instruction == "CMD" else instruction.lower(), json.loads(value))
        case _:
            raise SystemExit(f"{instruction} is not known here: add it, or do without")


def copy(words: list[str], stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    """COPY [--from=STAGE] SOURCE... TARGET, folders by their contents."""
    origin = context
    if words[0].startswith("--from="):
        origin = stages[words.pop(0).removeprefix("--from=")].root
    *sources, target = words
    for source in sources:
        place, wanted = origin / source.lstrip("/"), inside(stage, target)
        if place.is_dir():
            shutil.copytree(place, wanted, symlinks=True, dirs_exist_ok=True)
        else:
            wanted = wanted / place.name if target.endswith("/") else wanted
            wanted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place, wanted)


def inside(stage: Stage, path: str) -> Path:
    """Where a path of the image lies on this machine."""
    return stage.root / os.path.normpath(os.path.join(stage.folder, path)).lstrip("/")


def main() -> int:
    """Build, then run the image's entry point with the words given, or with its CMD."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--context", type=Path, default=Path())
    parser.add_argument("--base", type=Path, required=True, help="root to begin every stage with, made by debootstrap")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the stages' roots")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="arguments of the entry point (default: those of CMD)")
    arguments = parser.parse_args()
    image = build(arguments.dockerfile, arguments.context, arguments.base, arguments.work)
    return subprocess.run(image.inside([*image.entrypoint, *(arguments.words or image.command)])).returncode


if __name__ == "__main__":
    sys.exit(main())
