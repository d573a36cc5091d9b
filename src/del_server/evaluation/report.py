"""Report: what was measured as one Markdown table a text, as JSON, and as rows of the codec's own measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from del_codec.spec import Measured
from del_server.evaluation.contest import RivalRow
from del_server.evaluation.estimate import CONFIDENCE
from del_server.evaluation.generation import GenerationRow
from del_server.evaluation.leakage import DELTA
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.study import Row, TextResult

SCHEMA = "del-evaluation/1"


def to_json(
    results: Sequence[TextResult],
    rivals: Sequence[RivalRow],
    generated: Sequence[GenerationRow],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Everything measured, for machines. rivals: rows of a contest; generated: of writing on; facts: how.

    What is not a number becomes null.
    """
    measured = [asdict(result) for result in results]
    found = {"schema": SCHEMA, "confidence": CONFIDENCE, "delta": DELTA, "facts": facts, "texts": measured}
    found["rivals"] = [asdict(row) for row in rivals]
    found["generated"] = [asdict(row) for row in generated]
    plain: dict[str, Any] = without_nan(found)
    return plain


def without_nan(value: Any) -> Any:
    """A value of JSON with null for each float that is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heading(result: TextResult) -> str:
    """One line on a text: its windows, floor and ceiling."""
    floor, ceiling, plain = (result.perplexities[name] for name in ("floor", "ceiling", "plain"))
    return (
        f"{result.text}: {result.windows} windows; PPL floor {floor:.1f}, ceiling {ceiling:.1f} ({result.ceiling}), "
        f"plain clean prompt {plain:.1f}"
    )


def table(results: Sequence[TextResult]) -> str:
    """All rows as a Markdown table; the strongest attack of each row is bold."""
    names = list(dict.fromkeys(name for result in results for row in result.rows for name in row.attacks))
    columns = ["text", "mu", "bits", "bytes/token", "PPL", "retained", "95 %", *names]
    columns += ["bits read (of)", "cap, prior", f"eps a token, delta {DELTA:g}"]
    return markdown_table(columns, (_cells(row, names) for result in results for row in result.rows))


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    cells = [row.text, f"{row.mu:g}", str(row.bits), f"{row.bytes_per_token:g}", f"{math.exp(row.nll.mean):.1f}"]
    cells += [
        f"{row.retained.mean:.2f} ± {row.retained.error:.2f}",
        f"{row.retained.low:.2f} to {row.retained.high:.2f}",
    ]
    for name in names:
        shown = str(row.attacks[name]) if name in row.attacks else "-"
        cells.append(f"**{shown}**" if name == row.strongest else shown)
    leakage = row.leakage
    cells += [f"{leakage.bits:.2f} ({leakage.bits_limit:.1f})", f"{leakage.cap_prior:.3f}", f"{leakage.epsilon:.1f}"]
    return cells


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one text at one setting: the strongest attack's share of the tokens, and the share of use that is retained."""

    mu: float
    bits: int
    attack_success: float
    retained: float


def readings(results: Iterable[TextResult]) -> list[Reading]:
    """Of all texts and settings."""
    return [
        Reading(row.mu, row.bits, row.attack_success, row.retained.mean) for result in results for row in result.rows
    ]


def measured(found: Sequence[Reading]) -> tuple[Measured, ...]:
    """Rows for a codec's spec: at each setting the texts' highest ASR (of the strongest attack) and lowest retained
    share, both rounded to the codec's disadvantage, since a default must hold on all texts."""
    rows = []
    for mu, bits in sorted({(reading.mu, reading.bits) for reading in found}):
        here = [reading for reading in found if (reading.mu, reading.bits) == (mu, bits)]
        success = max(reading.attack_success for reading in here)
        retained = min(reading.retained for reading in here)
        rows.append(Measured(round(1000 * mu), bits, math.ceil(1000 * success), math.floor(1000 * retained)))
    return tuple(rows)
