"""Which bit-width at which mu: what is proven of every setting, and what attacks read and readers keep at some of them.

What is proven needs no model. What is measured is `del-server evaluate`'s, on the shipped codecs: windows of text are
taken in PARTS, each with noise of its own and each a repeat, so that the spread is that of words and noise together.
Curves of the committed evaluation at size (benchmarks/results/frontier) stand beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import smollm2
from benchmarks.evaluated import evaluated
from benchmarks.report.results import Recorder, Run
from benchmarks.section import Fact, Plot, Section, Settings, Sheet, Step, Table
from del_codec.accounting import certify
from del_codec.caps import cap_prior, cap_uniform
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_server.commands.train import hub_tokenizer, separator_id
from del_server.evaluation.inversion import InversionConfig
from del_server.evaluation.study import Study, Windows
from del_server.training.text import name_of, read_texts, tokenize

HERE = Path(__file__).parent
# The opening of "A Scandal in Bohemia" (A. Conan Doyle, 1891), in the public domain.
SAMPLE = HERE / "texts" / "scandal_in_bohemia.txt"
COMMITTED = HERE / "results" / "frontier"
DELTA = 1e-5
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
MUS = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 12.0, 16.0, 20.0, 30.0, 40.0)
PROMPT, CONTINUATION = 64, 32
# What a token's levels carry is not shown here.
SAMPLES = 2
ATTACKS = ("prior", "nn", "ml", "map", "beam")
TRAINED = ("inversion", "combined")
READ, KEPT, SINGLE = "ASR, strongest", "retained", "ASR map"
EPSILON, CAP, BYTES = "epsilon, a token", "cap, by how common", "bytes a token"
PROVEN = (EPSILON, f"epsilon, {PROMPT} tokens", CAP, "cap, all alike", BYTES)
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75)
EPSILONS = (10.0, 30.0, 60.0, 100.0, 200.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. windows: of each text in each of `parts`; width: of the beam search."""

    bits: tuple[int, ...]
    mus: tuple[float, ...]
    attacks: tuple[str, ...]
    parts: int
    windows: int
    width: int


FULL = Scale(BITS, (5.0, 8.0, 12.0, 20.0), ATTACKS, 5, 2, 2)
QUICK = Scale((1, 4), (8.0,), ("prior", "map"), 2, 2, 1)


def proven(table: LatentTable, way: str, mu: float, record: Recorder) -> None:
    """What no attack can exceed, for every number of bits at one mu."""
    for bits in BITS:
        setting = NoiseSetting.from_mu(mu, table.spec.dim, bits)
        token, prompt = release_of(table, setting, 1), release_of(table, setting, PROMPT)
        figures = (
            certify([token], unit="token", tokens=1, delta=DELTA).epsilon,
            certify([prompt], unit="prompt", tokens=PROMPT, delta=DELTA).epsilon,
            cap_prior(token, table.prior),
            cap_uniform(token, table.spec.vocabulary),
        )
        for name, figure in zip(PROVEN, figures, strict=False):
            record.add(name, figure, "", "lower", way, {"mu": mu, "bits": bits})
        record.add(BYTES, table.spec.dim * bits / 8, "B", "lower", way, {"mu": mu, "bits": bits})


class Measured:
    """One shipped codec on texts in parts."""

    def __init__(self, folder: Path, model: Any, scale: Scale, settings: Settings) -> None:
        self.name = folder.name
        self._scale = scale
        tokenizer = hub_tokenizer(smollm2.NAME)
        start = separator_id(tokenizer)
        self._ids = partial(_ids, tokenizer, start)
        self._study = Study(model, [folder], np.array([start], dtype=np.int64), width=scale.width, samples=SAMPLES)
        self._grid = self._study.settings(scale.mus, scale.bits)
        self._attacks = scale.attacks + (TRAINED if settings.attack_text else ())
        self._attack_text = settings.attack_text
        windows, parts = scale.windows, scale.parts
        self._texts = [
            Windows.of(name_of(text), self._ids(text), count=windows * parts, prompt=PROMPT, continuation=CONTINUATION)
            for text in settings.text or (SAMPLE,)
        ]

    def train(self, record: Recorder) -> None:  # noqa: ARG002
        """Let the attacks that learn do so."""
        stream = np.concatenate([self._ids(path) for path in self._attack_text])
        self._study.train_inversions(stream, [setting for _, setting in self._grid], PROMPT, InversionConfig())

    def part(self, number: int, record: Recorder) -> None:
        """Every setting on one part of each text; over texts the highest success and the least that is kept."""
        step = self._scale.parts
        if not number:
            record.notes.append(self._note())
        texts = [Windows(text.name, text.prompt[number::step], text.target[number::step]) for text in self._texts]
        results = [self._study.measure(text, self._grid, self._attacks) for text in texts]
        for rows in zip(*(result.rows for result in results), strict=True):
            at = {"mu": rows[0].mu, "bits": rows[0].bits}
            record.add(KEPT, min(row.retained.mean for row in rows), "", "higher", self.name, at)
            record.add(READ, max(row.attack_success for row in rows), "", "lower", self.name, at)
            for attack in rows[0].attacks:
                success = max(row.attacks[attack].mean for row in rows)
                record.add(f"ASR {attack}", success, "", "lower", self.name, at)

    def _note(self) -> str:
        texts = ", ".join(f"{len(text.prompt)} of {text.name}" for text in self._texts)
        return (
            f"Windows of {PROMPT} tokens for {self.name}: {texts}, in {self._scale.parts} parts, each a repeat; search "
            f"of width {self._scale.width}."
        )


def _ids(tokenizer: Any, separator: int, path: Path) -> Any:
    return tokenize(tokenizer, read_texts(path), separator)


def recorded(table: LatentTable, way: str, record: Recorder) -> None:
    """What a codec's maker measured, as the codec carries it and devices choose their default by."""
    for row in table.spec.measured:
        mu = row.mu_milli / 1000
        setting, at = NoiseSetting.from_mu(mu, table.spec.dim, row.bits), {"mu": mu, "bits": row.bits}
        token = release_of(table, setting, 1)
        record.add(READ, row.attack_success / 1000, "", "lower", way, at)
        record.add(KEPT, row.retained / 1000, "", "higher", way, at)
        record.add(EPSILON, certify([token], unit="token", tokens=1, delta=DELTA).epsilon, "", "lower", way, at)
        record.add(CAP, cap_prior(token, table.prior), "", "lower", way, at)
        record.add(BYTES, table.spec.dim * row.bits / 8, "B", "lower", way, at)


def committed(record: Recorder) -> None:
    """Curves of the evaluation at size, over its texts as above."""
    for path in sorted(COMMITTED.glob("*.json")):
        if "task" in json.loads(path.read_text()):
            continue  # questions about texts, which have no such curve
        way = f"{path.stem} (at size)"
        for one in evaluated(path):
            at = {"mu": one.mu, "bits": one.bits}
            record.add(READ, one.read, "", "lower", way, at)
            record.add(SINGLE, one.single, "", "lower", way, at)
            record.add(KEPT, one.retained, "", "higher", way, at)
            record.add(EPSILON, one.leakage["epsilon"], "", "lower", way, at)
            record.add(CAP, one.leakage["cap_prior"], "", "lower", way, at)
            record.add(BYTES, one.bytes_per_token, "B", "lower", way, at)


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """What is proven of each codec, then what is measured of it."""
    scale = QUICK if settings.quick else FULL
    # Sections before this one may have kept torch to one thread, and here nothing is timed.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    model = smollm2.model()
    found: list[Step] = []
    for folder in codec_folders():
        table = LatentTable.load(folder / DEVICE_FILE)
        measured = Measured(folder, model, scale, settings)
        found.append(Step("its own rows", partial(recorded, table, f"{folder.name} (its card)")))
        found += [Step(f"proven, mu {mu:g}", partial(proven, table, folder.name, mu)) for mu in MUS]
        if settings.attack_text:
            found.append(Step("attacks learn", measured.train))
        found += [
            Step(f"attacks, part {number + 1} of {scale.parts}", partial(measured.part, number))
            for number in range(scale.parts)
        ]
    yield [*found, Step("evaluations at size", committed)]


def sheets(run: Run) -> Sequence[Sheet]:
    """The settings that keep most under bounds that a user may set."""
    choices = _choices(run)
    return (
        Sheet(
            "Which bit-width at which mu",
            "Of all that was measured, the setting that keeps most of a prompt's use while the strongest attack reads "
            "no more than the share in the first column. Where two keep the same, the fewer bits.",
            _answers(choices, READ, SHARES, "tokens read, at most"),
        ),
        Sheet(
            "The same for a bound on epsilon",
            "The setting that keeps most at no more than this exact epsilon of one token (delta 1e-5).",
            _answers(choices, EPSILON, EPSILONS, "epsilon of a token, at most"),
        ),
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting of a codec, with the medians of its figures by name."""

    way: str
    mu: float
    bits: float
    figures: dict[str, float]


def _choices(run: Run) -> list[Choice]:
    """Those that were both attacked and read."""
    found: dict[tuple[str, float, float], dict[str, float]] = {}
    for result in run.of("privacy"):
        place = (result.way, float(result.at["mu"]), float(result.at["bits"]))
        found.setdefault(place, {})[result.name] = result.median
    return [Choice(*place, figures) for place, figures in found.items() if {READ, KEPT, EPSILON} <= figures.keys()]


def _answers(choices: Sequence[Choice], bounded: str, bounds: Sequence[float], label: str) -> list[tuple[str, ...]]:
    """The best choice under each bound, of each way to make codecs that has one."""
    shown = (KEPT, READ, EPSILON, CAP)
    rows: list[tuple[str, ...]] = [(label, "codec", "bits", "mu", *shown, BYTES)]
    for bound in bounds:
        best = _best([choice for choice in choices if choice.figures[bounded] <= bound])
        for one in best:
            figures = [f"{one.figures[name]:.{1 if name == EPSILON else 2}f}" for name in shown]
            rows.append((f"{bound:g}", one.way, f"{one.bits:g}", f"{one.mu:g}", *figures, f"{one.figures[BYTES]:g}"))
        if not best:
            rows.append((f"{bound:g}", "none that was measured", *[""] * (len(shown) + 3)))
    return rows


def _best(fitting: Sequence[Choice]) -> list[Choice]:
    """Of each way what keeps most, to two digits, with the fewest bits."""
    return [
        max((one for one in fitting if one.way == way), key=lambda one: (round(one.figures[KEPT], 2), -one.bits))
        for way in dict.fromkeys(one.way for one in fitting)
    ]


def _of_the_card(mu: float, words: str) -> tuple[Fact, Fact]:
    """Of the first shipped codec, at one bit."""
    way, at = f"{codec_folders()[0].name} (its card)", {"mu": mu, "bits": 1}
    return (
        Fact(f"Share of the tokens that the strongest attack reads, {words} (mu {mu:g}, one bit)", READ, way, at),
        Fact(f"Share of a prompt's use that is kept, {words} (mu {mu:g}, one bit)", KEPT, way, at),
    )


PLACE = ("mu", "bits")
SECTION = Section(
    group="privacy",
    title="Privacy: what is proven, what attacks read, what is kept",
    about=(
        "Two dials set how much the bits of a token say: `mu` and `bits`. Turned one way they hide more, turned the "
        "other way the model understands more. The first tables are the answer; what they are taken from follows."
    ),
    words={
        "mu": "the strength of the noise: small is private (1 hides almost all, 40 almost nothing).",
        "bits": "how many a coordinate takes, 1 to 8. More bits cost bytes, and say more at large mu.",
        "epsilon": "what a server that knows everything but the device's random bits can learn at most, exact, at "
        "delta 1e-5. Below 1 is strong, tens are weak.",
        "cap": "the proven limit on the share of tokens that any attack can name from a token's own bits: if it knows "
        "how common each token is, or takes all for alike. An attack that uses the sentence may exceed it.",
        "ASR": "the share of tokens that an attack named. `prior` always says the commonest token, `nn` takes the "
        "nearest embedding, `ml` and `map` are the best there is from one token's bits, `beam`, `inversion` and "
        "`combined` use the sentence as well. A better attack may read more.",
        "retained": "the share of a clean prompt's use for predicting what follows: 1 is as good as in the clear, 0 as "
        "good as no prompt. Of several texts the worse counts, as for ASR.",
        "(its card)": "the same codec as its maker measured it, at size: what devices choose their default by.",
        "(at size)": "codecs of the evaluations on a GPU that docs/results.md shows, with the attacks and texts "
        "there. A small sample of text scatters much more.",
    },
    facts=(*_of_the_card(4.0, "with much noise"), *_of_the_card(12.0, "with little")),
    steps=steps,
    tables=(
        Table(
            "Every setting", PLACE, (EPSILON, CAP, READ, KEPT, BYTES), "By mu, so that widths at one mu stand together."
        ),
        Table("Proven of every setting", PLACE, PROVEN),
        Table("Each attack", PLACE, tuple(f"ASR {name}" for name in (*ATTACKS, *TRAINED))),
    ),
    plots=(
        Plot("Epsilon of a token by mu", EPSILON, "mu", by=("bits",)),
        Plot("Proven cap on tokens named, by mu", CAP, "mu", by=("bits",), y="linear"),
        Plot("Tokens that the strongest attack reads, by mu", READ, "mu", by=("bits",), y="linear"),
        Plot("Share of a prompt's use that is kept, by mu", KEPT, "mu", by=("bits",), y="linear"),
    ),
    sheets=sheets,
)
