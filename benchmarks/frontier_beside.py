"""What was measured beside the frontier, for docs/results.md: ablations, bits, a share of tokens at weak noise, rivals,
text that is written on.

`benchmarks/results/ablations` has `del-server evaluate`'s file for each codec of the plan whose name begins with
"short"; `benchmarks/results/beside` those of the shipped codec and of the paper's recipe, and what
`python -m benchmarks.scattered` found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from del_server.evaluation.estimate import Estimate
from del_server.evaluation.generation import GenerationRow, generation_table
from del_server.evaluation.markdown import markdown_table

HERE = Path(__file__).parent / "results"
ABLATIONS, BESIDE = HERE / "ablations", HERE / "beside"
# Both objectives, as shipped: what the others are compared with.
BOTH = "short-both"


def sections(ablations: Path = ABLATIONS, beside: Path = BESIDE) -> list[str]:
    """All of it, in Markdown."""
    return [*_ablations(ablations), *_bits(beside), *_scattered(beside), *_rivals(beside), *_written(beside)]


def _ablations(folder: Path) -> list[str]:
    lines = [
        "## What a recipe's parts bring",
        "",
        "`joint-context`, 110 steps of 128 sequences each, one seed, 64 windows a text: with both objectives, with one",
        "of them, for one mu alone, and with a LoRA of the model (rank 8, floor and ceiling trained with one as well).",
        "",
    ]
    found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    names = sorted(found, key=lambda name: (name != BOTH, name))
    rows = [
        [
            name.removeprefix("short-"),
            text["text"],
            f"{row['mu']:g}",
            *_kept(row),
            f"{row['attacks']['map']['mean']:.3f}",
        ]
        for name in names
        for text in found[name]["texts"]
        for row in text["rows"]
    ]
    return [*lines, markdown_table(["codec", "text", "mu", "retained", "95 %", "MAP"], rows), ""]


def _bits(folder: Path) -> list[str]:
    lines = [
        "## More bits at one mu",
        "",
        "The shipped codec, 96 windows a text. mu is that of the guarantee at each number of bits, so the rows of one",
        "mu differ in bytes and in what fits through them.",
        "",
    ]
    rows = [
        [
            text["text"],
            f"{row['mu']:g}",
            str(row["bits"]),
            f"{row['bytes_per_token']:g}",
            *_kept(row),
            *_read_by(row),
            f"{row['leakage']['epsilon']:.1f}",
        ]
        for text in _read(folder / "bits.json")["texts"]
        for row in sorted(text["rows"], key=lambda row: (row["mu"], row["bits"]))
    ]
    columns = ["text", "mu", "bits", "bytes a token", "retained", "95 %", "ASR", "by", "epsilon"]
    return [*lines, markdown_table(columns, rows), ""]


def _scattered(folder: Path) -> list[str]:
    lines = [
        "## Some tokens in earnest, the rest hidden",
        "",
        "A share of the tokens at weak noise, the others at strong, in place of one noise for all: where only so many",
        "may be read, more is retained. *rare*: the tokens that the codec's text has least often; *random*: any. The",
        "attacks know which tokens were sent how, and the trained one learned on such prompts. 96 windows a text.",
        "",
    ]
    rows = [
        [
            row["text"],
            row["choice"],
            f"{row['share']:g}",
            f"{row['weak_mu']:.0f}, else {row['mu']:.0f}",
            *_kept(row),
            *_read_by(row),
        ]
        for row in _read(folder / "scattered.json")["rows"]
    ]
    columns = ["text", "chosen", "share", "mu", "retained", "95 %", "ASR", "by"]
    return [*lines, markdown_table(columns, rows), ""]


def _rivals(folder: Path) -> list[str]:
    data = _read(folder / "rivals.json")
    lines = [
        "## Rivals",
        "",
        "The same 64 windows a text, the same floor and ceiling, the attacks that need no training;",
        "[evaluation.md](evaluation.md) says what each way is, and why their guarantees can't be compared.",
        "",
    ]
    ours = [
        {"text": text["text"], "name": f"DEL mu {row['mu']:g}, {row['bits']} bit"}
        | {"guarantee": f"epsilon {row['leakage']['epsilon']:.1f} a token, delta 1e-05"}
        | {key: row[key] for key in ("bytes_per_token", "retained", "attacks", "strongest")}
        for text in data["texts"]
        for row in text["rows"]
    ]
    rows = [
        [row["text"], row["name"], row["guarantee"], f"{row['bytes_per_token']:g}", *_kept(row), *_read_by(row)]
        for name in dict.fromkeys(row["text"] for row in ours)
        for row in [*ours, *data["rivals"]]
        if row["text"] == name
    ]
    columns = ["text", "way", "guarantee", "bytes a token", "retained", "95 %", "ASR", "by"]
    return [*lines, markdown_table(columns, rows), ""]


def _written(folder: Path) -> list[str]:
    lines = [
        "## What the model writes",
        "",
        "COH, the paper's: how near the text that the model writes after the first 50 words of a paragraph is to the",
        "rest of that paragraph, as the cosine of their sentence embeddings. 200 paragraphs of a text, sampled. PPL is",
        "that of the written text under the plain model: fluency, not fit.",
        "",
    ]
    for path in sorted(folder.glob("coh-*.json")):
        rows = [_generation(row) for row in _read(path)["generated"]]
        lines += [f"### {path.stem.removeprefix('coh-')}", "", generation_table(rows), ""]
    return lines


def _generation(row: dict[str, Any]) -> GenerationRow:
    return GenerationRow(**{**row, "coherence": Estimate(**row["coherence"]), "nll": Estimate(**row["nll"])})


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _kept(row: dict[str, Any]) -> Iterable[str]:
    kept = row["retained"]
    return [f"{kept['mean']:.2f}", f"{kept['low']:.2f} to {kept['high']:.2f}"]


def _read_by(row: dict[str, Any]) -> Iterable[str]:
    return [f"{row['attacks'][row['strongest']]['mean']:.3f}", row["strongest"]]
