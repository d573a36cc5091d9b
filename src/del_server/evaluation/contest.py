"""Contest: rivals on the same windows, between the same floor and ceiling, under the same attacks as a codec.

A rival has no soft prompt of its own, so its prompts are read both plainly and with the soft prompt that was trained
for clean prompts, and the better reading counts; the codec's own latents are read as the codec is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from del_codec.errors import InvalidValue
from del_server.evaluation.attacks import Case
from del_server.evaluation.denoise import DenoisedModel
from del_server.evaluation.estimate import Estimate, highest
from del_server.evaluation.markdown import markdown_table
from del_server.evaluation.rivals import (
    GaussianLatents,
    MetricPrivacy,
    PlainText,
    RandomAdjacency,
    Rival,
    RoundedEmbeddings,
)
from del_server.evaluation.study import Study, Windows, on_host
from del_server.evaluation.utility import Losses, retained

APPLICABLE = ("prior", "nn", "ml", "map", "beam", "beam-token")


@dataclass(frozen=True, slots=True)
class RivalRow:
    """One rival on one text; fields as in Row. guarantee: by the rival's own definition. reading: which reader won."""

    text: str
    name: str
    guarantee: str
    bytes_per_token: float
    reading: str
    nll: Estimate
    retained: Estimate
    attacks: dict[str, Estimate]
    strongest: str


def rivals(study: Study, mus: Sequence[float], etas: Sequence[float], epsilons: Sequence[float]) -> list[Rival]:
    """All rivals: those without privacy, Gaussian at each mu, metric-DP at each eta, RANTEXT at each epsilon."""
    embeddings = study.judge.embeddings
    found: list[Rival] = [PlainText(embeddings), *(RoundedEmbeddings(embeddings, bits) for bits in (16, 8))]
    found += [GaussianLatents(study.codecs[0], embeddings, mu) for mu in mus]
    found += [MetricPrivacy(embeddings, eta, snap=snap) for eta in etas for snap in (False, True)]
    found += [RandomAdjacency.of(embeddings, epsilon) for epsilon in epsilons]
    return found


@torch.inference_mode()
def contest(study: Study, text: Windows, entrants: Sequence[Rival], attacks: Sequence[str]) -> list[RivalRow]:
    """A row for each rival. Raises InvalidValue if no attack is left that applies to them."""
    names = [name for name in attacks if name in APPLICABLE]
    if not names:
        raise InvalidValue("attacks", list(attacks), f"of these one at least must be of {', '.join(APPLICABLE)}")
    target, truth = (torch.from_numpy(ids).to(study.device) for ids in (text.target, text.prompt))
    bounds = study.bounds(0, text)
    cases, readings = [], []
    for rival in entrants:
        observed = rival.observe(text.prompt)
        decoded = rival.embed(observed)
        cases.append(Case(rival, observed, truth, decoded))
        losses = _readings(study, rival, decoded, truth, target)
        best = min(losses, key=lambda way: float(losses[way].mean()))
        readings.append((best, losses[best]))
    rows = []
    for rival, (way, lost), found in zip(entrants, readings, study.attacker.run(cases, names), strict=True):
        read = {name: Estimate.of(share) for name, share in on_host(found).items()}
        rows.append(
            RivalRow(
                text=text.name,
                name=rival.name,
                guarantee=rival.guarantee,
                bytes_per_token=rival.bytes_per_token,
                reading=way,
                nll=Estimate.of(lost),
                retained=retained([lost], [bounds]),
                attacks=read,
                strongest=highest(read),
            )
        )
    return rows


def _readings(study: Study, rival: Rival, decoded: Tensor, truth: Tensor, target: Tensor) -> dict[str, Losses]:
    """NLL of each window by each way to read a rival's prompts."""
    readers = study.readers[0]
    if isinstance(rival, DenoisedModel):
        return {"denoised on the device": rival.losses(truth, target)}
    if isinstance(rival, GaussianLatents):
        return {"as the codec's": readers.served.losses(decoded, target)}
    ways = {"plain": readers.plain, "with the clean prompt's soft prompt": readers.ceiling}
    return {way: reader.losses(decoded, target) for way, reader in ways.items()}


def rival_table(rows: Sequence[RivalRow]) -> str:
    """Rows as a Markdown table; the strongest attack of each is bold."""
    names = list(dict.fromkeys(name for row in rows for name in row.attacks))
    columns = ["text", "way", "guarantee", "bytes/token", "PPL", "retained", "95 %", *names]
    lines = []
    for row in rows:
        kept = row.retained
        cells = [row.text, row.name, row.guarantee, f"{row.bytes_per_token:g}", f"{math.exp(row.nll.mean):.1f}"]
        cells += [f"{kept.mean:.2f} ± {kept.error:.2f}", f"{kept.low:.2f} to {kept.high:.2f}"]
        shown = {name: str(estimate) for name, estimate in row.attacks.items()}
        cells += [f"**{shown[name]}**" if name == row.strongest else shown[name] for name in names]
        lines.append(cells)
    return markdown_table(columns, lines)
