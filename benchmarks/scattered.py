"""Scattered: a share of a prompt's tokens sent at weak noise and the others at strong, under the strongest attacks.

`python -m benchmarks.scattered --codec DIR... --text FILE... --attack-text FILE... [--share ...] [--json OUT]`. Beside
one noise for all tokens (`del-server evaluate`) it says where a given number of read tokens keeps most of a prompt's
meaning. The attacks know which tokens were sent how; the trained one is trained on such prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from del_codec.noise import NoiseSetting
from del_server.commands.evaluate import UNTRAINED, Bench, add_study_arguments, attack_names
from del_server.evaluation.attacks import Case
from del_server.evaluation.channel import BinomialChannel
from del_server.evaluation.estimate import Estimate, highest
from del_server.evaluation.inversion import InversionConfig
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.report import without_nan
from del_server.evaluation.scattered import Choice, ScatteredChannel
from del_server.evaluation.study import Study, Windows, on_host
from del_server.evaluation.utility import retained
from del_server.training.text import Ids

ATTACKS = "prior,map,beam,inversion,combined"


@dataclass(frozen=True, slots=True)
class Row:
    """share of the tokens at weak_mu, chosen as `choice` says, the others at mu; the rest as evaluate's rows."""

    text: str
    choice: Choice
    share: float
    mu: float
    weak_mu: float
    retained: Estimate
    attacks: dict[str, Estimate]
    strongest: str


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scattered")
    add_study_arguments(parser)
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help=".txt or .jsonl, also .xz")
    parser.add_argument(
        "--share", type=float, nargs="+", default=[0.1, 0.15, 0.2, 0.25, 0.3, 0.5], help="at weak noise"
    )
    parser.add_argument("--choice", nargs="+", default=["random", "rare"], choices=["random", "rare"])
    parser.add_argument("--mu", type=float, default=1.0, help="of the other tokens (default: %(default)s)")
    parser.add_argument("--weak-mu", type=float, default=40.0, help="(default: %(default)s)")
    parser.add_argument("--attacks", default=ATTACKS, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    told = parser.parse_args(words)
    bench = Bench(told)
    names = attack_names(told.attacks)
    texts = [bench.windows(path) for path in told.text]
    public = bench.public() if set(names) - set(UNTRAINED) else None
    rows: list[Row] = []
    for choice in told.choice:
        found = measure(bench, choice, texts, names, public)
        print(table(found), flush=True)
        rows += found
    if told.json:
        told.json.write_text(json.dumps(without_nan({"rows": [asdict(row) for row in rows]}), indent=1) + "\n")
    return 0


def measure(
    bench: Bench, choice: Choice, texts: Sequence[Windows], names: Sequence[str], public: Ids | None
) -> list[Row]:
    """All shares on all texts; public: text to train the attack on that needs training, where one does."""
    told, study = bench.arguments, bench.study
    codecs = range(len(study.codecs))
    channels = [[_channel(study, index, told, share, choice) for share in told.share] for index in codecs]
    if public is not None:
        config = InversionConfig(steps=told.attack_steps, batch=told.attack_batch)
        for index, some in enumerate(channels):
            study.train_inversion(index, public, some, told.prompt, config)
    return [row for text in texts for row in _rows(study, text, channels, names)]


def _channel(study: Study, index: int, told: argparse.Namespace, share: float, choice: Choice) -> ScatteredChannel:
    table = study.codecs[index].table
    strong, weak = (
        BinomialChannel(table, NoiseSetting.from_mu(mu, table.spec.dim, 1), study.device)
        for mu in (told.mu, told.weak_mu)
    )
    return ScatteredChannel(strong, weak, share, choice)


def _rows(
    study: Study, text: Windows, channels: Sequence[Sequence[ScatteredChannel]], names: Sequence[str]
) -> list[Row]:
    target, truth = (torch.from_numpy(ids).to(study.device) for ids in (text.target, text.prompt))
    bounds = [study.bounds(index, text) for index in range(len(channels))]
    rows = []
    for place in range(len(channels[0])):
        cases = [_case(study, index, some[place], text, truth) for index, some in enumerate(channels)]
        losses = [
            readers.served.losses(case.decoded, target) for readers, case in zip(study.readers, cases, strict=True)
        ]
        shares = [on_host(found) for found in study.attacker.run(cases, names)]
        attacks = {name: Estimate.of([found[name] for found in shares]) for name in shares[0]}
        channel = channels[0][place]
        rows.append(
            Row(
                text=text.name,
                choice=channel.choice,
                share=channel.share,
                mu=channel.strong.setting.mu(channel.strong.table.spec.dim),
                weak_mu=channel.weak.setting.mu(channel.weak.table.spec.dim),
                retained=retained(losses, bounds),
                attacks=attacks,
                strongest=highest(attacks),
            )
        )
    return rows


def _case(study: Study, index: int, channel: ScatteredChannel, text: Windows, truth: torch.Tensor) -> Case:
    observed = channel.observe(text.prompt)
    levels, weak = (part.cpu().numpy() for part in channel.parts(observed))
    settings = [channel.strong.setting, channel.weak.setting]
    decoded = study.codecs[index].decoder.mixed(levels, settings, weak.astype("int64"))
    return Case(channel, observed, truth, decoded, study.inversions[index])


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; the strongest attack of each is bold."""
    names = list(rows[0].attacks)
    columns = ["text", "chosen", "share", "mu", "retained", "95 %", *names]
    lines = []
    for row in rows:
        kept = row.retained
        cells = [row.text, row.choice, f"{row.share:g}", f"{row.weak_mu:.0f}, else {row.mu:.0f}"]
        cells += [f"{kept.mean:.2f} ± {kept.error:.2f}", f"{kept.low:.2f} to {kept.high:.2f}"]
        cells += [f"**{row.attacks[n]}**" if n == row.strongest else str(row.attacks[n]) for n in names]
        lines.append(cells)
    return markdown_table(columns, lines)


if __name__ == "__main__":
    sys.exit(main())
