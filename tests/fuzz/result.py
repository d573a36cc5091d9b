"""Result: what some executions of one target came to, as a file that a later run adds to. Knows libFuzzer's report."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .target import Target

_PACKAGES = ("atheris", "numpy", "protobuf", "safetensors")
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_RSS = re.compile(r"stat::peak_rss_mb:\s*(\d+)")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+)")
_SECONDS = re.compile(r"Done \d+ runs in (\d+) second")


@dataclass(frozen=True, slots=True)
class Slice:
    """What one process reports. status: its exit status; edges, features: of the code, reached by its corpus."""

    status: int
    executions: int
    seconds: int
    edges: int
    features: int
    rss_mb: int
    output: str

    @classmethod
    def read(cls, status: int, output: str) -> Slice:
        """From what it printed; numbers that it didn't live to print are 0."""
        edges, features = max([(int(e), int(f)) for e, f in _COVERAGE.findall(output)], default=(0, 0))
        return cls(
            status, _last(_EXECUTIONS, output), _last(_SECONDS, output), edges, features, _last(_RSS, output), output
        )


@dataclass(slots=True)
class Result:
    """executions, seconds (by the clock, of processes that ended well): of all runs since the source changed.

    edges, features: the most that were reached. broke: processes that ended at an input that broke the target. rss_mb:
    the most memory. source: SHA-256 of the files under attack, by module.
    """

    target: str
    source: dict[str, str]
    versions: dict[str, str]
    executions: int = 0
    seconds: int = 0
    edges: int = 0
    features: int = 0
    broke: int = 0
    rss_mb: int = 0
    command: str = field(default="")

    @classmethod
    def resume(cls, file: Path | None, name: str, target: Target) -> Result:
        """The result in a file, or a new one where there is none or it is about another source."""
        versions = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES}
        new = cls(name, {module: _sha256(module) for module in target.modules}, versions)
        if file is not None and file.exists():
            old = cls(**json.loads(file.read_text()))
            if (old.source, old.versions) == (new.source, new.versions):
                return old
        return new

    def add(self, part: Slice) -> None:
        """Count one process."""
        self.executions += part.executions
        self.seconds += part.seconds
        self.edges, self.features = max(self.edges, part.edges), max(self.features, part.features)
        self.broke += part.status != 0
        self.rss_mb = max(self.rss_mb, part.rss_mb)
        self.command = (
            f"python -m tests.fuzz {self.target} --executions {self.executions} --out benchmarks/results/fuzz"
        )

    def line(self) -> str:
        """For a reader who waits."""
        return (
            f"{self.target}: {self.executions} executions in {self.seconds} s, {self.edges} edges, {self.features} "
            f"features, {self.broke} broke, {self.rss_mb} MB"
        )

    def write(self, file: Path) -> None:
        """Replace the file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=2) + "\n")


def _last(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.findall(text)
    return int(found[-1]) if found else 0


def _sha256(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no module {module}")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
