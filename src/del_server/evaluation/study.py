"""Study: codecs that were trained alike, on texts and settings: what each keeps, what attacks read, what is proven.

Everything is on the path that is deployed: the baked table, the integers of the setting, the operating system's
randomness, the decoder as it is served. All settings of all codecs go through a search side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from del_codec.errors import InvalidValue
from del_codec.noise import MIN_SCALE, NoiseSetting
from del_server.codec import ServedCodec
from del_server.evaluation.attacks import Attacker, Case
from del_server.evaluation.beam import LanguagePrior
from del_server.evaluation.channel import BinomialChannel, LatentChannel
from del_server.evaluation.estimate import Estimate, highest
from del_server.evaluation.inversion import InversionConfig, InversionModel, train_inversion
from del_server.evaluation.leakage import SAMPLES, Leakage
from del_server.evaluation.utility import Bounds, Losses, Readers, retained
from del_server.training.objective import Judge
from del_server.training.text import Ids, windows

NOISELESS_BITS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """B windows of one text: prompt ids [B, T] and the ids that follow them [B, C]."""

    name: str
    prompt: Ids
    target: Ids

    @classmethod
    def of(cls, name: str, stream: Ids, *, count: int, prompt: int, continuation: int) -> Windows:
        """Up to `count` evenly spaced windows that don't overlap. Raises InvalidValue for a text that is too short."""
        batches = list(windows(stream, count, prompt, continuation))
        return cls(name, np.concatenate([b.prompt for b in batches]), np.concatenate([b.target for b in batches]))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting on one text. attacks: share of tokens recovered, by attack; strongest: the name of the best of them.

    bytes_per_token counts the payload. nll: nats a token; retained: (floor - nll) / (floor - ceiling).
    """

    text: str
    mu: float
    bits: int
    bytes_per_token: float
    nll: Estimate
    retained: Estimate
    attacks: dict[str, Estimate]
    strongest: str
    leakage: Leakage

    @property
    def attack_success(self) -> float:
        """ASR: of the strongest attack measured here."""
        return self.attacks[self.strongest].mean


@dataclass(frozen=True, slots=True)
class TextResult:
    """One text: perplexities of floor, ceiling and plain model, the reading that was the ceiling, and the rows."""

    text: str
    windows: int
    perplexities: dict[str, float]
    ceiling: str
    rows: list[Row]


class Study:
    """Evaluates codecs of one model, the same kind with other seeds.

    prefix: public ids before every prompt for the attacker's language model, at least one. The attacker's unigram prior
    is the first codec's. samples: tokens that are drawn for what a token's levels carry (leakage.py). Raises
    MismatchError for the codec of another model, ArtifactError for a damaged one.
    """

    def __init__(
        self, model: Any, folders: Sequence[Path], prefix: Ids, *, width: int = 16, samples: int = SAMPLES
    ) -> None:
        if not folders:
            raise InvalidValue("codec", "nothing", "name at least one codec's folder")
        self.model, self.judge = model, Judge(model)
        self.device = self.judge.embeddings.device
        self.codecs = [ServedCodec.load(folder, model) for folder in folders]
        if len({codec.table.spec.dim for codec in self.codecs}) > 1:
            raise InvalidValue(
                "codec", [str(f) for f in folders], "codecs studied together have one dim: the same kind"
            )
        self.readers = [
            Readers.load(folder, codec, self.judge) for folder, codec in zip(folders, self.codecs, strict=True)
        ]
        log_prior = torch.from_numpy(np.log(self.codecs[0].table.prior)).to(self.device, torch.float32)
        prior = LanguagePrior(model, torch.from_numpy(prefix).to(self.device), log_prior)
        self.attacker = Attacker(self.judge.embeddings, prior, width)
        self._samples = samples
        self._leakages: dict[NoiseSetting, Leakage] = {}
        self.inversions: list[InversionModel | None] = [None] * len(self.codecs)

    def settings(self, mus: Sequence[float], bits: Sequence[int]) -> list[tuple[float, NoiseSetting]]:
        """The grid, with the mu that names each. Raises InvalidValue."""
        return [(mu, NoiseSetting.from_mu(mu, self.codecs[0].table.spec.dim, n)) for n in bits for mu in mus]

    def train_inversions(
        self, stream: Ids, settings: Sequence[NoiseSetting], length: int, config: InversionConfig
    ) -> None:
        """Train an attack on each codec, over these settings, on public text."""
        for index, codec in enumerate(self.codecs):
            channels = [BinomialChannel(codec.table, setting, self.device) for setting in settings]
            self.train_inversion(index, stream, channels, length, config)

    def train_inversion(
        self, index: int, stream: Ids, channels: Sequence[LatentChannel], length: int, config: InversionConfig
    ) -> None:
        """Train an attack on one codec, over channels of its latents, on public text."""
        torch.manual_seed(config.seed)
        dim, prior = self.codecs[index].table.spec.dim, self.attacker.prior
        attack = InversionModel(config, dim, self.model, self.judge.embeddings, prior.log_unigram).to(self.device)
        train_inversion(attack, channels, torch.from_numpy(stream).to(self.device), length, prior.prefix)
        self.inversions[index] = attack.eval()

    def measure(self, text: Windows, grid: Sequence[tuple[float, NoiseSetting]], attacks: Sequence[str]) -> TextResult:
        """All settings of the grid on one text. Raises InvalidValue for an unknown attack."""
        target = torch.from_numpy(text.target).to(self.device)
        bounds = [self.bounds(index, text) for index in range(len(self.codecs))]
        cases = [case for _, setting in grid for case in self._cases(text, setting)]
        readers = [readers.served for readers in self.readers] * len(grid)
        losses = [reader.losses(case.decoded, target) for reader, case in zip(readers, cases, strict=True)]
        shares = [on_host(found) for found in self.attacker.run(cases, attacks)]
        rows = []
        for place, (mu, setting) in enumerate(grid):
            here = slice(place * len(self.codecs), (place + 1) * len(self.codecs))
            read = self._estimates(shares, place)
            rows.append(self._row(text.name, mu, setting, losses[here], bounds, read))
        return TextResult(text.name, len(target), bounds[0].perplexities(), bounds[0].best, rows)

    def success(
        self, text: Windows, settings: Sequence[NoiseSetting], attacks: Sequence[str]
    ) -> list[dict[str, Estimate]]:
        """What attacks read at each setting, over all codecs, fresh draws; nothing else is measured."""
        cases = [case for setting in settings for case in self._cases(text, setting)]
        shares = [on_host(found) for found in self.attacker.run(cases, attacks)]
        return [self._estimates(shares, place) for place in range(len(settings))]

    def _cases(self, text: Windows, setting: NoiseSetting) -> list[Case]:
        """A fresh release of the windows from each codec."""
        truth = torch.from_numpy(text.prompt).to(self.device)
        cases = []
        for codec, inversion in zip(self.codecs, self.inversions, strict=True):
            channel = BinomialChannel(codec.table, setting, self.device)
            levels = channel.draw(text.prompt)
            observed = torch.from_numpy(levels).to(self.device)
            cases.append(Case(channel, observed, truth, codec.decoder.windows(levels, setting), inversion))
        return cases

    def _estimates(self, shares: Sequence[dict[str, Losses]], place: int) -> dict[str, Estimate]:
        """Over the codecs, of one place in the grid."""
        here = shares[place * len(self.codecs) : (place + 1) * len(self.codecs)]
        return {name: Estimate.of([found[name] for found in here]) for name in here[0]}

    def _row(
        self,
        text: str,
        mu: float,
        setting: NoiseSetting,
        losses: Sequence[Losses],
        bounds: Sequence[Bounds],
        attacks: dict[str, Estimate],
    ) -> Row:
        return Row(
            text=text,
            mu=mu,
            bits=setting.bits,
            bytes_per_token=self.codecs[0].table.spec.dim * setting.bits / 8,
            nll=Estimate.of(losses),
            retained=retained(losses, bounds),
            attacks=attacks,
            strongest=highest(attacks),
            leakage=self._leakage(setting),
        )

    def _leakage(self, setting: NoiseSetting) -> Leakage:
        """Of the first codec, worked out once a setting."""
        found = self._leakages.get(setting)
        if found is None:
            channel = BinomialChannel(self.codecs[0].table, setting, self.device)
            found = self._leakages[setting] = Leakage.of(channel, self._samples)
        return found

    def bounds(self, index: int, text: Windows) -> Bounds:
        """Floor and ceiling of one codec on one text."""
        target = torch.from_numpy(text.target).to(self.device)
        codec = self.codecs[index]
        clean = self.judge.embeddings[torch.from_numpy(text.prompt).to(self.device)]
        quiet = NoiseSetting(NOISELESS_BITS, MIN_SCALE)
        noiseless = codec.decoder.windows(BinomialChannel(codec.table, quiet, self.device).means(text.prompt), quiet)
        return self.readers[index].bounds(clean, noiseless, target)


def on_host(shares: dict[str, Tensor]) -> dict[str, Losses]:
    """Shares of windows as float64 on the CPU."""
    return {name: share.double().cpu().numpy() for name, share in shares.items()}
