"""Fuzz parsers by coverage: `python -m tests.fuzz [NAME...] --executions N [--out FOLDER]`; without names, all of them.

Runs one process after the other, each of a share of the executions, on a corpus that grows in --work. A result in
--out adds up as long as the source under attack stays the same. Ends at the first input that breaks a target, keeps it
in --work and says how to run it again. Needs the extra "fuzz".
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .result import Result, Slice
from .target import NAMES, Target, kept, load

_ROOT = Path(__file__).parents[2]
_SLICE = 1_000_000
_RSS_MB = 2048
_INPUT_SECONDS = 10


def main() -> int:
    """Run what the arguments name; 1 where something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("--executions", type=int, default=100_000, metavar="N", help="of each target (100000)")
    parser.add_argument("--work", type=Path, default=_ROOT / ".cache" / "fuzz", metavar="FOLDER", help="for corpora")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results, NAME.json each")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no target {name}: there are {', '.join(NAMES)}")
    held = [_fuzz(name, arguments) for name in arguments.names or NAMES]
    return 0 if all(held) else 1


def _fuzz(name: str, arguments: argparse.Namespace) -> bool:
    """Whether a target held."""
    target = load(name)
    corpus, broke = arguments.work / name, arguments.work / f"{name}-broke"
    corpus.mkdir(parents=True, exist_ok=True)
    broke.mkdir(exist_ok=True)
    for index, data in enumerate([*target.seeds(), *kept(name)]):
        (corpus / f"kept-{index}").write_bytes(data)
    file = None if arguments.out is None else arguments.out / f"{name}.json"
    result = Result.resume(file, name, target)
    while result.executions < arguments.executions:
        runs = min(_SLICE, arguments.executions - result.executions)
        part = _run(name, target, runs, corpus, broke)
        result.add(part)
        print(result.line(), flush=True)
        if file is not None:
            result.write(file)
        if part.status:
            sys.stderr.write(part.output[-8000:])
            print(f"{name} broke: see {broke}; run again with: python -m tests.fuzz.fuzzer {name} {broke}/FILE")
            return False
    return True


def _run(name: str, target: Target, runs: int, corpus: Path, broke: Path) -> Slice:
    """One process of libFuzzer."""
    words = corpus.with_suffix(".words")
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    command = [
        *(sys.executable, "-m", f"{__package__}.fuzzer", name),
        *(f"-runs={runs}", f"-max_len={target.most_bytes}", f"-timeout={_INPUT_SECONDS}", f"-rss_limit_mb={_RSS_MB}"),
        *("-reload=0", "-print_final_stats=1", f"-artifact_prefix={broke}/"),
        *([f"-dict={words}"] if target.words else []),
        str(corpus),
    ]
    done = subprocess.run(command, cwd=_ROOT, env=os.environ, capture_output=True, text=True, errors="replace")
    return Slice.read(done.returncode, done.stdout + done.stderr)


def _quoted(word: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return "".join(chr(byte) if 32 < byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
