"""What a file of `del-server evaluate --json` says of each setting, of all of its texts the worse for the codec."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One setting. rows: as the file has them, one of each text."""

    mu: float
    bits: int
    rows: list[dict[str, Any]]

    @property
    def retained(self) -> float:
        """The least that is retained."""
        return float(min(row["retained"]["mean"] for row in self.rows))

    @property
    def read(self) -> float:
        """The largest share that the strongest attack read."""
        return float(max(row["attacks"][row["strongest"]]["mean"] for row in self.rows))

    @property
    def single(self) -> float:
        """The largest share that the best attack on single tokens (MAP) read."""
        return float(max(row["attacks"]["map"]["mean"] for row in self.rows))

    @property
    def leakage(self) -> dict[str, float]:
        """What is proven: the same for all texts."""
        found: dict[str, float] = self.rows[0]["leakage"]
        return found

    @property
    def bytes_per_token(self) -> float:
        """On the wire, of one token's bits."""
        return float(self.rows[0]["bytes_per_token"])


@cache
def evaluated(path: Path) -> tuple[Evaluated, ...]:
    """Every setting of the file, in its order."""
    settings: dict[tuple[float, int], list[dict[str, Any]]] = {}
    for text in json.loads(path.read_text())["texts"]:
        for row in text["rows"]:
            settings.setdefault((row["mu"], row["bits"]), []).append(row)
    return tuple(Evaluated(*setting, rows) for setting, rows in settings.items())
