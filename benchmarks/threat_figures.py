"""The tables of docs/threat-model.md, from the committed results: `python -m benchmarks.threat_figures [--check]`.

Each stands between `<!-- figures: NAME -->` and `<!-- end -->`. --check says whether the page is what the results give;
a test does the same.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.results import Result, Run
from del_codec.accounting import certify
from del_codec.caps import cap_uniform
from del_codec.noise import NoiseSetting
from del_codec.release import Release
from del_server.evaluation.markdown import markdown_table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "threat-model.md"
FRONTIER, STRUCTURE = HERE / "results" / "frontier", HERE / "results" / "structure" / "results.json"
DIM, VOCABULARY, DELTA = 64, 49_152, 1e-5
MUS = (1, 3, 5, 8, 12, 20, 40)
CODECS = ("joint-guarded", "joint-context")
FEWEST = 8
BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(words: Sequence[str] | None = None) -> int:
    """Write the page's tables; with --check, 1 if they are not what the results give."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threat_figures")
    parser.add_argument("--check", action="store_true")
    text = PAGE.read_text()
    made = filled(text)
    if parser.parse_args(words).check:
        return int(made != text)
    PAGE.write_text(made)
    return 0


def filled(text: str) -> str:
    """The page with its tables made anew."""
    run = Run.read(STRUCTURE)
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]](run)}\n{found[3]}", text)


def dial(_: Run) -> str:
    """What is proven at each mu, for any table of 64 coordinates at one bit; and what was measured of two codecs."""
    rows = []
    for mu in MUS:
        threshold = NoiseSetting.from_mu(mu, DIM, 1).threshold_max()
        proven = [
            certify([Release(DIM * tokens, threshold)], unit="prompt", tokens=tokens, delta=DELTA).epsilon
            for tokens in (1, 16, 64)
        ]
        cap = cap_uniform(Release(DIM, threshold), VOCABULARY)
        rows.append([f"{mu}", *(f"{epsilon:.4g}" for epsilon in proven), f"{cap:.2%}", *map(str, _measured(mu))])
    columns = ["mu", "epsilon, 1 token", "16 tokens", "64 tokens", "cap, 1 token"]
    columns += [f"{codec}: {what}" for codec in CODECS for what in ("read", "retained")]
    return markdown_table(columns, rows)


def _measured(mu: float) -> list[str]:
    """Of each codec the larger share that the strongest attack read and the smaller one retained, of all texts."""
    cells = []
    for codec in CODECS:
        texts: list[dict[str, Any]] = json.loads((FRONTIER / f"{codec}.json").read_text())["texts"]
        found = [row for text in texts for row in text["rows"] if (row["mu"], row["bits"]) == (mu, 1)]
        if not found:
            cells += ["", ""]
            continue
        read = max(row["attacks"][row["strongest"]]["mean"] for row in found)
        cells += [f"{read:.3f}", f"{min(row['retained']['mean'] for row in found):.2f}"]
    return cells


def gap(run: Run) -> str:
    """How often the true value is put first, and what the context gives it, where there are FEWEST spots."""
    names = ("spots", "values each", "first, no context", "first", "bits gained")
    rows = []
    for place in _places(run, "first", ("text", "kind"), among="any length"):
        spots, values, blind, first, bits = (_one(run, name, **place, among="any length") for name in names)
        if spots < FEWEST:
            continue
        errors = [_one(run, f"{name} ±", **place, among="any length") for name in ("first", "bits gained")]
        cells = [str(place["kind"]), str(place["text"]), f"{spots:.0f}", f"{1 / values:.3f}", f"{blind:.3f}"]
        rows.append([*cells, f"{first:.3f} ± {errors[0]:.3f}", f"{bits:.2f} ± {errors[1]:.2f}"])
    return markdown_table(["kind", "text", "spots", "chance", "no context", "context", "bits gained"], rows)


def noised(run: Run) -> str:
    """The same where the span's own bits are sent, too."""
    rows = []
    for place in _places(run, "first, and bits", ("text", "kind", "mu"), among="same length"):
        here = {**place, "among": "same length"}
        plain = {name: here[name] for name in ("text", "kind", "among")}
        spots, values = (_one(run, name, **plain) for name in ("spots", "values each"))
        if spots < FEWEST:
            continue
        alone, both = (_one(run, name, **here) for name in ("first, bits alone", "first, and bits"))
        error = _one(run, "first, and bits ±", **here)
        cells = [str(place["kind"]), str(place["text"]), f"{spots:.0f}", f"{values:.1f}", f"{place['mu']:g}"]
        rows.append([*cells, f"{_one(run, 'first', **plain):.3f}", f"{alone:.3f}", f"{both:.3f} ± {error:.3f}"])
    return markdown_table(["kind", "text", "spots", "values", "mu", "context", "bits", "both"], rows)


def lengths(run: Run) -> str:
    """Bits that a length gives away, by padding."""
    rows = []
    for place in _places(run, "bits by length", ("text", "kind")):
        pads = [_one(run, "bits by length", **place, pad=pad) for pad in (1, 4, 8, 16)]
        count = _one(run, "values", **place)
        rows.append([str(place["kind"]), str(place["text"]), f"{count:.0f}", *(f"{abs(bits):.2f}" for bits in pads)])
    return markdown_table(["kind", "text", "counted", "as it is", "pad 4", "pad 8", "pad 16"], rows)


def again(run: Run) -> str:
    """What is allowed and what was read of tokens that were sent several times."""
    rows = []
    for place in _places(run, "epsilon", ("mu", "bits", "sendings")):
        read = {result.way: result.median for result in _at(run, "tokens read", **place) if "few" not in result.way} | {
            result.way: result.median for result in _at(run, "tokens read", **place) if "beam" in result.way
        }
        best = max(read, key=lambda way: read[way])
        epsilon, cap = (_one(run, name, **place) for name in ("epsilon", "cap, prior"))
        cells = [str(place["mu"]), str(place["bits"]), f"{place['sendings']:g}", f"{epsilon:.4g}", f"{cap:.3f}"]
        rows.append([*cells, f"{read['map']:.3f}", f"{read[best]:.3f}", best])
    return markdown_table(["mu", "bits", "sent", "epsilon", "cap, prior", "MAP", "strongest", "by"], rows)


def gate(run: Run) -> str:
    """What leaves, and what is charged, when the same words are asked again."""
    rows = [
        [result.way, f"{result.at['asked']:g}", f"{result.median:.0f}", f"{_charged(run, result):.0f}"]
        for result in _at(run, "different payloads")
    ]
    return markdown_table(["asked again", "times", "different payloads", "sendings charged"], rows)


def _charged(run: Run, result: Result) -> float:
    return next(other.median for other in _at(run, "sendings charged", **result.at) if other.way == result.way)


def _at(run: Run, name: str, **place: float | str) -> list[Result]:
    """Results of that name whose place has all of these."""
    return [one for one in run.of("structure") if one.name == name and place.items() <= one.at.items()]


def _one(run: Run, name: str, **place: float | str) -> float:
    """The one at exactly that place."""
    return next(one.median for one in _at(run, name, **place) if len(one.at) == len(place))


def _places(run: Run, name: str, keys: Sequence[str], **where: float | str) -> list[dict[str, float | str]]:
    """The distinct places of a figure, by those keys, in order."""
    found = [tuple(one.at[key] for key in keys) for one in _at(run, name, **where) if set(keys) <= set(one.at)]
    return [dict(zip(keys, place, strict=True)) for place in dict.fromkeys(found)]


TABLES: dict[str, Callable[[Run], str]] = {
    **{"dial": dial, "gap": gap, "noised": noised},
    **{"lengths": lengths, "again": again, "gate": gate},
}

if __name__ == "__main__":
    sys.exit(main())
