"""Target: one parser under attack: what it must do with any bytes, and what to begin from.

Knows nothing of atheris, hypothesis or pytest, which all use it.
"""

from __future__ import annotations

import importlib
import random
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
Mutate = Callable[[bytes], bytes]
# The parsers by name; each is a module of `parsers`, imported when it is asked for.
NAMES = ("access", "answer", "arguments", "artifact", "body", "config", "frame", "ledger", "policy", "reply", "table")


@dataclass(frozen=True, slots=True)
class Target:
    """check: hand bytes to the parser, let its documented errors pass, and raise for everything else: another
    exception, or something accepted that breaks what the documents promise of it.

    seeds: sound inputs. mutate(data, mutate, draw): a change that keeps the format's sums and lengths, so that what
    lies behind them is reached; `mutate` changes plain bytes. most_bytes: of an input. memory(size): bytes that Python
    may hold at once for an input of so many. words: of the format, for a dictionary. modules: of the source under
    attack.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    memory: Callable[[int], int]
    modules: tuple[str, ...]
    most_bytes: int = 4096
    mutate: Callable[[bytes, Mutate, random.Random], bytes] | None = None
    words: tuple[bytes, ...] = ()


def load(name: str) -> Target:
    """The target of that name."""
    module = importlib.import_module(f"{__package__}.parsers.{name}")
    target: Target = module.TARGET
    return target


def kept(name: str) -> list[bytes]:
    """What was kept of earlier runs: inputs that reach much of the parser, and those that broke it once."""
    folders = (HERE / "corpus" / name, HERE / "broke" / name)
    return [path.read_bytes() for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def check_within_memory(target: Target, data: bytes) -> None:
    """`check`, and raise where it held more memory than the target may. The first check imports what it needs."""
    target.check(data)
    tracemalloc.start()
    try:
        target.check(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = target.memory(len(data))
    assert most <= allowed, f"{most} bytes were held for an input of {len(data)}: at most {allowed}"
