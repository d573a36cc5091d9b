"""What the structure's figures come to, as tables that docs/threat-model.md shows (benchmarks/document.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evaluated import evaluated
from benchmarks.report.results import Result, Run
from benchmarks.section import Sheet
from del_codec.accounting import certify
from del_codec.caps import cap_uniform
from del_codec.noise import NoiseSetting
from del_codec.release import Release

FRONTIER = Path(__file__).parent / "results" / "frontier"
DIM, VOCABULARY, DELTA = 64, 49_152, 1e-5
MUS = (1, 3, 5, 8, 12, 20, 40)
CODECS = ("joint-guarded", "joint-context")
FEWEST = 8
Rows = list[tuple[str, ...]]


def sheets(run: Run) -> Sequence[Sheet]:
    """Of a run that has the section's figures; without them, none."""
    if not _at(run, "tokens read"):
        return ()
    return (
        Sheet(
            "The dial",
            "Of any table of 64 coordinates at one bit: exact epsilon at delta 1e-5 and the context-free cap over "
            "49,152 equally likely tokens. Of two recipes' codecs: what the strongest attack read and what of a "
            "prompt's use was retained, on the worse of two texts (benchmarks/results/frontier).",
            _dial(),
        ),
        Sheet("A gap in its sentence", f"Rows of at least {FEWEST} spots.", _gap(run)),
        Sheet("A noised span in its sentence", "Among values of as many tokens.", _noised(run)),
        Sheet("Bits by length", "The entropy of the number of tokens.", _lengths(run)),
        Sheet("The same tokens sent again", "epsilon: one token, all sendings, delta 1e-5.", _again(run)),
        Sheet("The same words asked again", "At the gate of a device.", _gate(run)),
    )


def _dial() -> Rows:
    """What is proven at each mu, for any table of 64 coordinates at one bit; and what was measured of two codecs."""
    rows: Rows = []
    for mu in MUS:
        threshold = NoiseSetting.from_mu(mu, DIM, 1).threshold_max()
        proven = [
            certify([Release(DIM * tokens, threshold)], unit="prompt", tokens=tokens, delta=DELTA).epsilon
            for tokens in (1, 16, 64)
        ]
        cap = cap_uniform(Release(DIM, threshold), VOCABULARY)
        rows.append((f"{mu}", *(f"{epsilon:.4g}" for epsilon in proven), f"{cap:.2%}", *_measured(mu)))
    columns = ["mu", "epsilon, 1 token", "16 tokens", "64 tokens", "cap, 1 token"]
    columns += [f"{codec}: {what}" for codec in CODECS for what in ("read", "retained")]
    return [tuple(columns), *rows]


def _measured(mu: float) -> list[str]:
    """Of each codec the larger share that the strongest attack read and the smaller one retained, of all texts."""
    cells = []
    for codec in CODECS:
        found = [one for one in evaluated(FRONTIER / f"{codec}.json") if (one.mu, one.bits) == (mu, 1)]
        cells += [f"{found[0].read:.3f}", f"{found[0].retained:.2f}"] if found else ["", ""]
    return cells


def _gap(run: Run) -> Rows:
    """How often the true value is put first, and what the context gives it, where there are FEWEST spots."""
    names = ("spots", "values each", "first, no context", "first", "bits gained")
    rows: Rows = []
    for place in _places(run, "first", ("text", "kind"), among="any length"):
        spots, values, blind, first, bits = (_one(run, name, **place, among="any length") for name in names)
        if spots < FEWEST:
            continue
        errors = [_one(run, f"{name} ±", **place, among="any length") for name in ("first", "bits gained")]
        cells = [str(place["kind"]), str(place["text"]), f"{spots:.0f}", f"{1 / values:.3f}", f"{blind:.3f}"]
        rows.append((*cells, f"{first:.3f} ± {errors[0]:.3f}", f"{bits:.2f} ± {errors[1]:.2f}"))
    return [("kind", "text", "spots", "chance", "no context", "context", "bits gained"), *rows]


def _noised(run: Run) -> Rows:
    """The same where the span's own bits are sent, too."""
    rows: Rows = []
    for place in _places(run, "first, and bits", ("text", "kind", "mu"), among="same length"):
        here = {**place, "among": "same length"}
        plain = {name: here[name] for name in ("text", "kind", "among")}
        spots, values = (_one(run, name, **plain) for name in ("spots", "values each"))
        if spots < FEWEST:
            continue
        alone, both = (_one(run, name, **here) for name in ("first, bits alone", "first, and bits"))
        error = _one(run, "first, and bits ±", **here)
        cells = [str(place["kind"]), str(place["text"]), f"{spots:.0f}", f"{values:.1f}", f"{place['mu']:g}"]
        rows.append((*cells, f"{_one(run, 'first', **plain):.3f}", f"{alone:.3f}", f"{both:.3f} ± {error:.3f}"))
    return [("kind", "text", "spots", "values", "mu", "context", "bits", "both"), *rows]


def _lengths(run: Run) -> Rows:
    """Bits that a length gives away, by padding."""
    rows: Rows = []
    for place in _places(run, "bits by length", ("text", "kind")):
        pads = [_one(run, "bits by length", **place, pad=pad) for pad in (1, 4, 8, 16)]
        count = _one(run, "values", **place)
        rows.append((str(place["kind"]), str(place["text"]), f"{count:.0f}", *(f"{abs(bits):.2f}" for bits in pads)))
    return [("kind", "text", "counted", "as it is", "pad 4", "pad 8", "pad 16"), *rows]


def _again(run: Run) -> Rows:
    """What is allowed and what was read of tokens that were sent several times."""
    rows: Rows = []
    for place in _places(run, "epsilon", ("mu", "bits", "sendings")):
        read = {result.way: result.median for result in _at(run, "tokens read", **place) if "few" not in result.way} | {
            result.way: result.median for result in _at(run, "tokens read", **place) if "beam" in result.way
        }
        best = max(read, key=lambda way: read[way])
        epsilon, cap = (_one(run, name, **place) for name in ("epsilon", "cap, prior"))
        cells = [str(place["mu"]), str(place["bits"]), f"{place['sendings']:g}", f"{epsilon:.4g}", f"{cap:.3f}"]
        rows.append((*cells, f"{read['map']:.3f}", f"{read[best]:.3f}", best))
    return [("mu", "bits", "sent", "epsilon", "cap, prior", "MAP", "strongest", "by"), *rows]


def _gate(run: Run) -> Rows:
    """What leaves, and what is charged, when the same words are asked again."""
    rows: Rows = [
        (result.way, f"{result.at['asked']:g}", f"{result.median:.0f}", f"{_charged(run, result):.0f}")
        for result in _at(run, "different payloads")
    ]
    return [("asked again", "times", "different payloads", "sendings charged"), *rows]


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
