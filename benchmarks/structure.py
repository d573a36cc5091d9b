"""What a server learns beside a token's randomised bits: from words around a gap, from lengths, from sending again."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.context_attack import Floats, Gap, GapReader, Guess, guesses, noise_evidence
from benchmarks.planted import SEED, planted
from benchmarks.report.results import Place, Recorder
from benchmarks.resends import allowed, read, through_the_gate
from benchmarks.section import Plot, Section, Settings, Step, Table
from benchmarks.spots import GENERATED, Population, Spot, in_files, in_prompts, populations
from benchmarks.structure_sheets import sheets
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_server.commands.train import hub_tokenizer, separator_id
from del_server.evaluation.attacks import Attacker
from del_server.evaluation.beam import LanguagePrior
from del_server.evaluation.estimate import Estimate
from del_server.models import load_model
from del_server.training.text import Ids, read_texts, tokenize, windows

MODEL = "smollm2"
CHOICES, FEWEST = 8, 2
STRONG = (1.0, 3.0, 5.0, 8.0)
PADS = (1, 4, 8, 16)
MORE = 400
WINDOW = 24
TIMES = (1, 2, 4, 8, 16)
ASKED = 5
LM = "language model"
ALL = "all kinds"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: spots of each kind in people's texts, of all in generated ones, windows of both attacks."""

    spots: int
    planted: int
    windows: int
    searched: int
    times: tuple[int, ...]
    search_times: tuple[int, ...]
    mus: tuple[float, ...]


QUICK = Sizes(6, 4, 4, 1, (1, 4), (1, 4), (3.0,))
FULL = Sizes(32, 24, 16, 3, TIMES, (1, 2, 4, 8), (3.0, 5.0, 8.0))


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What all steps share."""

    model: torch.nn.Module
    tokenizer: object
    table: LatentTable
    sizes: Sizes
    spots: Sequence[Spot]
    values: Mapping[tuple[str, str], Population]
    reader: GapReader
    ids: Ids


def context(bench: Bench, origin: str, kind: str, record: Recorder) -> None:
    """Guesses at one kind, or ALL: among all values of a spot's kind, and among those of the true one's length."""
    spots = [spot for spot in bench.spots if spot.origin == origin and kind in (spot.kind, ALL)]
    random.Random(SEED).shuffle(spots)
    gaps = _gaps(bench, spots[: bench.sizes.planted if kind == ALL else bench.sizes.spots])
    alike = [one for one in (gap.of_one_length() for gap in gaps) if len(one.ids) > 1]
    for among, some in (("any length", gaps), ("same length", alike)):
        if len(some) < FEWEST:
            continue
        place: dict[str, float | str] = {"text": origin, "kind": kind, "among": among}
        blind = guesses(some, context=False)
        record.add("spots", len(some), "", "neither", LM, place)
        record.add("values each", float(np.mean([len(gap.ids) for gap in some])), "", "neither", LM, place)
        _add(record, "first, no context", [one.right for one in blind], place)
        _outcome(record, "", guesses(some), blind, place)
        for mu in STRONG if among == "same length" else ():
            noise = [noise_evidence(bench.table, gap, _setting(bench.table, mu, 1)) for gap in some]
            _outcome(record, ", and bits", guesses(some, noise), blind, place | {"mu": mu})
            _outcome(record, ", bits alone", guesses(some, noise, context=False), blind, place | {"mu": mu})


def _gaps(bench: Bench, spots: Sequence[Spot]) -> list[Gap]:
    rng, gaps = random.Random(SEED + 1), list[Gap]()
    for spot in spots:
        values = bench.values[spot.source, spot.kind]
        drawn = values.candidates(spot, CHOICES, rng)
        if len(drawn) == CHOICES:
            gaps.append(bench.reader.read(spot, [values.ids(spot, value) for value in drawn]))
    return gaps


def _outcome(record: Recorder, what: str, found: Sequence[Guess], blind: Sequence[Guess], place: Place) -> None:
    _add(record, f"first{what}", [one.right for one in found], place)
    _add(record, f"bits gained{what}", [one.bits - two.bits for one, two in zip(found, blind, strict=True)], place)


def _add(record: Recorder, name: str, values: Sequence[float] | Floats, place: Place, way: str = LM) -> None:
    """A mean and its standard error."""
    found = Estimate.of(values)
    record.add(name, found.mean, "", "neither", way, place)
    record.add(f"{name} ±", 0.0 if math.isnan(found.error) else found.error, "", "neither", way, place)


def lengths(bench: Bench, record: Recorder) -> None:
    """Bits that the number of tokens takes off the uncertainty about a value, and about a whole message."""
    counts = {(text, kind): population.lengths() for (text, kind), population in bench.values.items()}
    tokens = [len(bench.tokenizer(one.text).input_ids) for one in planted(MORE, SEED)]  # type: ignore[operator]
    counts[GENERATED, "whole prompt"] = Counter(tokens)
    for (text, kind), found in counts.items():
        record.add("values", found.total(), "", "neither", "as counted", {"text": text, "kind": kind})
        for pad in PADS:
            padded: Counter[int] = Counter()
            for length, count in found.items():
                padded[math.ceil(length / pad)] += count
            shares = np.array(list(padded.values())) / padded.total()
            place: dict[str, float | str] = {"text": text, "kind": kind, "pad": pad}
            record.add("bits by length", float((shares * -np.log2(shares)).sum()), "", "neither", "as counted", place)


def sent_again(bench: Bench, record: Recorder) -> None:
    """Attacks on fresh releases of the same tokens, beside what the composition allows."""
    unigram = torch.from_numpy(np.log(bench.table.prior)).float()
    prior = LanguagePrior(bench.model, torch.tensor([separator_id(bench.tokenizer)]), unigram)
    attacker = Attacker(bench.model.get_input_embeddings().weight.detach(), prior, width=4)  # type: ignore[operator]
    sizes, table = bench.sizes, bench.table
    one_bit = {(mu, times): [_setting(table, mu, 1)] * times for mu in (1.0, *sizes.mus) for times in sizes.times}
    plans = {(f"{mu:g}", "1", times): plan for (mu, times), plan in one_bit.items()}
    plans["5, 5", "1, 4", 2] = [_setting(table, 5, 1), _setting(table, 5, 4)]
    plans["3, 8", "1, 1", 2] = [_setting(table, 3, 1), _setting(table, 8, 1)]
    searched = {key: plan for key, plan in plans.items() if key[2] in sizes.search_times and key[0] != "1"}
    alone = read(attacker, table, list(plans.values()), bench.ids, ["prior", "map"])
    some = bench.ids[: sizes.searched]
    found = read(attacker, table, list(searched.values()), some, ["map", "beam", "beam-token"])
    best = dict(zip(searched, found, strict=True))
    for (mu, bits, times), attacks in zip(plans, alone, strict=True):
        place: dict[str, float | str] = {"mu": mu, "bits": bits, "sendings": times}
        epsilon, cap = allowed(table, plans[mu, bits, times])
        record.add("epsilon", epsilon, "", "neither", "composed", place)
        record.add("cap, prior", cap, "", "neither", "composed", place)
        for name, share in attacks.items():
            _share(record, name, share, place)
        for name, share in best.get((mu, bits, times), {}).items():
            _share(record, f"{name}, few windows", share, place)


def _share(record: Recorder, way: str, share: Estimate, place: Place) -> None:
    record.add("tokens read", share.mean, "", "neither", way, place)
    record.add("tokens read ±", share.error, "", "neither", way, place)


def at_the_gate(bench: Bench, record: Recorder) -> None:
    """What the ledger makes of the same words asked again."""
    found = through_the_gate(bench.table, _setting(bench.table, 8, 1), _setting(bench.table, 3, 1), ASKED)
    for way, (payloads, charged) in found.items():
        record.add("different payloads", payloads, "", "neither", way, {"asked": ASKED})
        record.add("sendings charged", charged, "", "neither", way, {"asked": ASKED})


def _setting(table: LatentTable, mu: float, bits: int) -> NoiseSetting:
    return NoiseSetting.from_mu(mu, table.spec.dim, bits)


def _windows(settings: Settings, tokenizer: object, count: int) -> Ids:
    """[count, WINDOW] of the first text, or of generated prompts."""
    texts = read_texts(settings.text[0]) if settings.text else [one.text for one in planted(MORE, SEED)]
    stream = tokenize(tokenizer, texts, separator_id(tokenizer))
    return np.concatenate([batch.prompt for batch in windows(stream, count, WINDOW, 1)])


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """A step for each kind in each text, then lengths, then sendings."""
    sizes = QUICK if settings.quick else FULL
    tokenizer, model = hub_tokenizer(MODEL), load_model(MODEL, "float32", "cpu").eval()
    spots = in_files(settings.text, tokenizer) + in_prompts(MORE, SEED, tokenizer)
    bench = Bench(
        model,
        tokenizer,
        LatentTable.load(codec_folders()[0] / DEVICE_FILE),
        sizes,
        spots,
        populations(spots, tokenizer, MORE, SEED + 2),
        GapReader(model, separator_id(tokenizer)),
        _windows(settings, tokenizer, sizes.windows),
    )
    kinds = dict.fromkeys((spot.origin, ALL if spot.origin == GENERATED else spot.kind) for spot in spots)
    yield [
        *(Step(f"{kind}, {origin}", partial(context, bench, origin, kind)) for origin, kind in kinds),
        Step("lengths", partial(lengths, bench)),
        Step("sent again", partial(sent_again, bench)),
        Step("at the gate", partial(at_the_gate, bench)),
    ]


SECTION = Section(
    group="structure",
    title="Structure and context",
    about=(
        "What a server learns beside a token's randomised bits. Of a gap: a sensitive span is hidden, all else is "
        "in the clear, and SmolLM2-135M-Instruct ranks the true value among others of its kind, drawn as often as "
        "they occur, by the likelihood of the text before, in and behind the gap. `first`: how often the true value "
        "is put first; `bits gained`: what context gives it over a guess without (how far the model is trusted is "
        "fitted on other documents). In `generated` prompts secrets were drawn apart from their sentences; the "
        "others people wrote. With `and bits` the span's own bits at mu, one a coordinate, are read as well. Of "
        "lengths: the entropy of the number of tokens, padded to a multiple of `pad`. Sent again: fresh releases of "
        "the same tokens; `few windows` are those that the search had time for. ± is the standard error."
    ),
    steps=steps,
    tables=(
        Table(
            "A gap, the rest in the clear",
            ("text", "kind", "among"),
            ("spots", "values each", "first, no context", "first", "first ±", "bits gained", "bits gained ±"),
        ),
        Table(
            "The same with the span's own bits",
            ("text", "kind", "among", "mu"),
            (
                "first, bits alone",
                "first, and bits",
                "first, and bits ±",
                "bits gained, bits alone",
                "bits gained, and bits",
            ),
        ),
        Table("Bits that a length gives away", ("text", "kind", "pad"), ("bits by length",)),
        Table("Sent again: what is allowed", ("mu", "bits", "sendings"), ("epsilon", "cap, prior")),
        Table("Sent again: what is read", ("mu", "bits", "sendings"), ("tokens read", "tokens read ±")),
        Table("Asked again, at the gate", ("asked",), ("different payloads", "sendings charged")),
    ),
    plots=(Plot("Tokens read, by sendings at mu 5", "tokens read", "sendings", where={"mu": "5", "bits": "1"}),),
    sheets=sheets,
)
