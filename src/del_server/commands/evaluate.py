"""`del-server evaluate`: what a codec is worth and what it gives away, on texts it has not seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE
from del_codec.spec import Measured
from del_codec.table import LatentTable
from del_server.commands.train import DTYPES, hub_tokenizer, separator_id
from del_server.evaluation.attacks import ATTACKS
from del_server.evaluation.contest import contest, rival_table, rivals
from del_server.evaluation.denoise import DenoisedModel
from del_server.evaluation.generation import GenerationRow, Passages, Writer, generation_table
from del_server.evaluation.inversion import InversionConfig
from del_server.evaluation.masked import MaskedLanguageModel
from del_server.evaluation.report import heading, measured, readings, table, to_json
from del_server.evaluation.rivals import Rival
from del_server.evaluation.sentence import SentenceEncoder
from del_server.evaluation.study import Study, Windows
from del_server.models import load_model
from del_server.training.text import Ids, name_of, read_texts, tokenize

UNTRAINED = ("prior", "nn", "ml", "map", "beam", "beam-token", "masked")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server evaluate`."""
    add_study_arguments(parser)
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help=".txt or .jsonl, also .xz")
    parser.add_argument("--mu", type=float, nargs="+", default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument("--bits", type=int, nargs="+", default=[1])
    parser.add_argument("--attacks", default=",".join(UNTRAINED), help=f"all, or of {', '.join(ATTACKS)}")
    parser.add_argument("--baselines", action="store_true", help="measure rivals on the same windows as well")
    parser.add_argument("--eta", type=float, nargs="+", default=[20.0, 40.0, 80.0], help="of metric-DP")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 6.0, 16.0], help="of RANTEXT")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="write on after N passages: COH and PPL")
    parser.add_argument("--sentence-model", type=Path, metavar="DIR", help="for COH (default: all-MiniLM-L6-v2)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything measured to OUT")
    parser.add_argument("--record", action="store_true", help="write the rows into the codecs (fingerprints change)")


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command that studies codecs is told."""
    defaults = InversionConfig()
    parser.add_argument(
        "--codec", type=Path, nargs="+", required=True, metavar="DIR", help="several: seeds of one kind"
    )
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder or a Hugging Face id (default: smollm2)")
    parser.add_argument("--count", type=int, default=128, help="windows of each text (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="private tokens of a window (default: %(default)s)")
    parser.add_argument("--continuation", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--beam", type=int, default=16, help="hypotheses of a search (default: %(default)s)")
    parser.add_argument("--attack-text", type=Path, nargs="+", default=[], metavar="FILE", help="to train inversion on")
    parser.add_argument("--attack-steps", type=int, default=defaults.steps, help="(default: %(default)s)")
    parser.add_argument(
        "--attack-batch", type=int, default=defaults.batch, help="windows a step (default: %(default)s)"
    )
    parser.add_argument("--masked-lm", metavar="ID|DIR", help="a masked language model for the attack `masked`")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, and write what was asked for."""
    names = attack_names(arguments.attacks)
    bench = Bench(arguments)
    grid = bench.study.settings(arguments.mu, arguments.bits)
    if set(names) - set(UNTRAINED):
        bench.train_attacks([setting for _, setting in grid])
    entrants = bench.rivals() if arguments.baselines else []
    results, rows = [], []
    for path in arguments.text:
        text = bench.windows(path)
        results.append(bench.study.measure(text, grid, names))
        print(heading(results[-1]), flush=True)
        rows += contest(bench.study, text, entrants, names) if entrants else []
    print(table(results))
    if rows:
        print(f"\n{rival_table(rows)}")
    written = bench.write(arguments.text, grid) if arguments.generate else []
    if written:
        print(f"\n{generation_table(written)}")
    if arguments.json:
        facts = {name: _plain(value) for name, value in vars(arguments).items() if name not in ("json", "record")}
        arguments.json.write_text(json.dumps(to_json(results, rows, written, facts), indent=1) + "\n")
    if arguments.record:
        for folder in arguments.codec:
            record(folder, measured(readings(results)))


def attack_names(text: str) -> list[str]:
    """The attacks that --attacks names, in the order of ATTACKS. Raises InvalidValue."""
    asked = set(ATTACKS) if text == "all" else {name.strip() for name in text.split(",")}
    if not asked <= set(ATTACKS):
        raise InvalidValue("attacks", text, f"use all, or names of {', '.join(ATTACKS)} with commas between")
    return [name for name in ATTACKS if name in asked]


class Bench:
    """A study as the command line describes it, and its texts. Raises DelError."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        for name in ("count", "prompt", "continuation", "beam", "attack_steps", "attack_batch"):
            if getattr(arguments, name) < 1:
                raise InvalidValue(name.replace("_", "-"), getattr(arguments, name), "use at least 1")
        self.arguments = arguments
        model = load_model(arguments.model, arguments.dtype, arguments.device)
        self.tokenizer = hub_tokenizer(arguments.model)
        self.separator = separator_id(self.tokenizer)
        start = np.array([self.separator], dtype=np.int64)
        self.study = Study(model, arguments.codec, start, width=arguments.beam)
        if arguments.masked_lm:
            masked = MaskedLanguageModel(arguments.masked_lm, self.tokenizer, self.study.device)
            self.study.attacker = dataclasses.replace(self.study.attacker, masked=masked)

    def stream(self, path: Path) -> Ids:
        """The ids of a file."""
        return tokenize(self.tokenizer, read_texts(path), self.separator)

    def windows(self, path: Path) -> Windows:
        """The windows of a file, named by its folder and name."""
        told = self.arguments
        stream = self.stream(path)
        return Windows.of(name_of(path), stream, count=told.count, prompt=told.prompt, continuation=told.continuation)

    def write(self, paths: Sequence[Path], grid: Sequence[tuple[float, NoiseSetting]]) -> list[GenerationRow]:
        """Generated text, scored. Raises ArtifactError if there is no sentence encoder."""
        told = self.arguments
        writer = Writer(self.study, self.tokenizer, SentenceEncoder(told.sentence_model, self.study.device))
        rows = []
        for path in paths:
            rows += writer.rows(Passages.of(name_of(path), read_texts(path), self.tokenizer, told.generate), grid)
        return rows

    def rivals(self) -> list[Rival]:
        """All rivals; the SnD-style ones only where there is public text to train their denoisers on."""
        told, study = self.arguments, self.study
        found = rivals(study, told.mu, told.eta, told.epsilon)
        if told.attack_text:
            public = torch.from_numpy(self.public()).to(study.device)
            for eta in told.eta:
                rival = DenoisedModel(study.model, study.judge.embeddings, eta)
                rival.train(public, told.prompt + told.continuation, steps=told.attack_steps, batch=told.attack_batch)
                found.append(rival)
        return found

    def public(self) -> Ids:
        """The ids of all public text that was given to train attacks and denoisers on."""
        return np.concatenate([self.stream(path) for path in self.arguments.attack_text])

    def train_attacks(self, settings: Sequence[NoiseSetting]) -> None:
        """Train the inversion attack on the public text that was given. Raises InvalidValue if there is none."""
        told = self.arguments
        if not told.attack_text:
            raise InvalidValue("attack-text", "nothing", "name public text to train the inversion attack on")
        config = InversionConfig(steps=told.attack_steps, batch=told.attack_batch)
        self.study.train_inversions(self.public(), settings, told.prompt, config)


def record(folder: Path, rows: tuple[Measured, ...]) -> None:
    """Write what was measured into the device's half of a codec."""
    latents = LatentTable.load(folder / DEVICE_FILE)
    spec = dataclasses.replace(latents.spec, measured=rows)
    (folder / DEVICE_FILE).write_bytes(LatentTable.to_bytes(spec, latents.latents, latents.unigram_counts))


def _plain(value: Any) -> Any:
    """As JSON has it; of a path its folder and its name, which say what it is and not where this machine keeps it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return "/".join(value.parts[-2:]) if isinstance(value, Path) else value
