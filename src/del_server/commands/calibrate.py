"""`del-server calibrate`: the noise at which an attack reads a wanted share of tokens, on the deployed mechanism."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from del_codec.noise import NoiseSetting
from del_server.commands.evaluate import UNTRAINED, Bench, add_study_arguments, attack_names
from del_server.commands.train import parse_range
from del_server.evaluation.attacks import ATTACKS
from del_server.evaluation.calibration import Calibration, calibrate
from del_server.evaluation.estimate import Estimate
from del_server.evaluation.report import without_nan

TRAINING_POINTS = 8
STRONGEST = "strongest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server calibrate`."""
    add_study_arguments(parser)
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help=".txt or .jsonl, also .xz")
    parser.add_argument("--target-asr", type=float, required=True, metavar="X", help="share of tokens recovered")
    parser.add_argument("--attack", default="map", choices=(*ATTACKS, STRONGEST), help="(default: %(default)s)")
    parser.add_argument("--bits", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--mu", default="", metavar="LO:HI", help="where to look (default: what it was trained for)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result and every measured point to OUT")


def run(arguments: argparse.Namespace) -> None:
    """Calibrate, print the setting, and write what was asked for."""
    bench = Bench(arguments)
    spec = bench.study.codecs[0].table.spec
    low, high = parse_range(arguments.mu) if arguments.mu else (spec.mu_milli_min / 1000, spec.mu_milli_max / 1000)
    names = _names(arguments)
    if set(names) - set(UNTRAINED):
        grid = [low * (high / low) ** (step / (TRAINING_POINTS - 1)) for step in range(TRAINING_POINTS)]
        bench.train_attacks([setting for _, setting in bench.study.settings(grid, [arguments.bits])])
    texts = [bench.windows(path) for path in arguments.text]

    def measure(settings: Sequence[NoiseSetting]) -> list[Estimate]:
        found = [bench.study.success(text, settings, names) for text in texts]
        # A setting has to hold on every text, and against every attack.
        return [max((read for here in at for read in here.values()), key=_mean) for at in zip(*found, strict=True)]

    result = calibrate(measure, arguments.target_asr, spec.dim, arguments.bits, low, high)
    print(describe(result, arguments.attack, high))
    if arguments.json:
        arguments.json.write_text(json.dumps(without_nan(asdict(result)), indent=1) + "\n")


def describe(result: Calibration, attack: str, high: float) -> str:
    """The result in a few lines."""
    read = result.success
    lines = [
        f"mu {result.mu:.3f}, {result.setting.bits} bits (noise scale {result.setting.scale}): attack {attack} reads "
        f"{read.mean:.3f} of the tokens (95 %: {read.low:.3f} to {read.high:.3f})"
    ]
    if result.outcome == "below":
        lines.append(f"the target {result.target:g} is not reached up to mu {high:g}: this is the top of the range")
    else:
        lines.append(
            f"target {result.target:g}: met by mu from {result.mu_low:.3f} to {result.mu_high:.3f} (95 %), "
            f"{len(result.points)} settings measured"
        )
    return "\n".join(lines)


def _names(arguments: argparse.Namespace) -> list[str]:
    """The attacks to measure. The trained ones count as strongest only where there is text to train them on."""
    if arguments.attack != STRONGEST:
        return attack_names(arguments.attack)
    return list(ATTACKS if arguments.attack_text else UNTRAINED)


def _mean(estimate: Estimate) -> float:
    return estimate.mean
