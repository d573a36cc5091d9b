"""Attacks: all of them on windows of any number of codecs, settings and texts, side by side through the language model.

prior            always the commonest token: what an attacker has who sees nothing
nn               the paper's: the nearest embedding, in angle, of what the decoder gives the language model
ml, map          each token from its own levels, without and with the unigram prior
beam             the likeliest whole prompt under the exact channel and the language model (BeamClean's recipe)
beam-token       of the same search, the likeliest token of each place given what may stand before it
inversion        a transformer trained on public text, which reads the whole noised prompt
combined         as beam, over the trained attack's scores: what stands before and after, and the language model
combined-token   as beam-token, over the trained attack's scores
withheld         the trained attack names a token from all others, without its own levels: input inference
masked           a masked language model names a token from the text that beam (else map) read around it: likewise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from del_codec.errors import InvalidValue
from del_server import lora
from del_server.evaluation.beam import LanguagePrior, beam_guess
from del_server.evaluation.channel import Channel, LatentChannel
from del_server.evaluation.evidence import TokenEvidence, best_guess
from del_server.evaluation.inversion import InversionEvidence, InversionModel
from del_server.evaluation.masked import MaskedLanguageModel

WITHHELD_STRIDE = 8

Guesses = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """B windows of T tokens as a server received them.

    channel, observed: [B, T, ...]. truth: ids [B, T]. decoded: embeddings [B, T, D] that the decoder made of them.
    inversion: the attack that was trained for this channel, of latents then, where there is one.
    """

    channel: Channel
    observed: Tensor
    truth: Tensor
    decoded: Tensor
    inversion: InversionModel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Attacker:
    """What all attacks share.

    embeddings: the language model's, [V, D]. prior: the language model as prior, with the unigram prior. width:
    hypotheses of a search. model_weight: of the language model's nats in `combined`, whose evidence knows context too.
    masked: for the attack of that name, which is left out without.
    """

    embeddings: Tensor
    prior: LanguagePrior
    width: int = 16
    model_weight: float = 0.5
    masked: MaskedLanguageModel | None = None

    @torch.inference_mode()
    def run(self, cases: Sequence[Case], names: Sequence[str]) -> list[dict[str, Tensor]]:
        """For each case the share of each window's tokens that each attack recovers, [B] by name, on the device.

        Attacks that need training are left out where a case has none. Raises InvalidValue for an unknown attack.
        """
        if not set(names) <= set(ATTACKS):
            raise InvalidValue("attacks", sorted(set(names) - set(ATTACKS)), f"use {', '.join(ATTACKS)}, or all")
        lora.use(self.prior.model, None)
        guesses: Guesses = [{} for _ in cases]
        for family, method in _FAMILIES.items():
            if set(family) & set(names):
                for found, more in zip(guesses, method(self, cases), strict=True):
                    found.update(more)
        if MASKED in names and self.masked is not None:
            for found, case in zip(guesses, cases, strict=True):
                read = found.get("beam", found.get("map"))
                found[MASKED] = self.masked.guess(self._own(case) if read is None else read)
        return [
            {name: (found[name] == case.truth).float().mean(dim=1) for name in names if name in found}
            for found, case in zip(guesses, cases, strict=True)
        ]

    def _own(self, case: Case) -> Tensor:
        return best_guess(TokenEvidence(case.channel, case.observed, self.prior.log_unigram))

    def _constant(self, cases: Sequence[Case]) -> Guesses:
        return [{"prior": self.prior.log_unigram.argmax().expand_as(case.truth)} for case in cases]

    def _nearest(self, cases: Sequence[Case]) -> Guesses:
        directions = F.normalize(self.embeddings.float(), dim=-1).T
        return [
            {"nn": torch.stack([(place @ directions).argmax(dim=-1) for place in case.decoded.float().unbind(1)], 1)}
            for case in cases
        ]

    def _alone(self, cases: Sequence[Case]) -> Guesses:
        return [
            {
                "ml": best_guess(TokenEvidence(case.channel, case.observed)),
                "map": self._own(case),
            }
            for case in cases
        ]

    def _searched(self, cases: Sequence[Case]) -> Guesses:
        evidence = [TokenEvidence(case.channel, case.observed) for case in cases]
        found = beam_guess(evidence, self.prior, width=self.width)
        return [{"beam": each.path, "beam-token": each.token} for each in found]

    def _trained(self, cases: Sequence[Case]) -> Guesses:
        return [{"inversion": best_guess(read)} if read is not None else {} for read in map(self._read, cases)]

    def _combined(self, cases: Sequence[Case]) -> Guesses:
        read = [self._read(case) for case in cases]
        evidence = [each for each in read if each is not None]
        found = iter(beam_guess(evidence, self.prior, width=self.width, weight=self.model_weight))
        return [
            {} if each is None else {"combined": (both := next(found)).path, "combined-token": both.token}
            for each in read
        ]

    def _withheld(self, cases: Sequence[Case]) -> Guesses:
        """Every eighth token is withheld at once, in eight rounds: its neighbours are there, as they would be."""
        guesses: Guesses = []
        for case in cases:
            guess = torch.empty_like(case.truth)
            places = torch.arange(case.truth.shape[1], device=guess.device) % WITHHELD_STRIDE
            for turn in range(WITHHELD_STRIDE):
                read = self._read(case, (places != turn).expand_as(guess))
                if read is None:
                    break
                for place in range(turn, read.length, WITHHELD_STRIDE):
                    guess[:, place] = read.at(place).argmax(dim=-1)
            guesses.append({} if case.inversion is None else {"withheld": guess})
        return guesses

    def _read(self, case: Case, shown: Tensor | None = None) -> InversionEvidence | None:
        if case.inversion is None:
            return None
        channel = cast("LatentChannel", case.channel)
        return InversionEvidence.of(case.inversion, channel, case.observed, self.prior.prefix, shown)


_FAMILIES: dict[tuple[str, ...], Callable[[Attacker, Sequence[Case]], Guesses]] = {
    ("prior",): Attacker._constant,
    ("nn",): Attacker._nearest,
    ("ml", "map"): Attacker._alone,
    ("beam", "beam-token"): Attacker._searched,
    ("inversion",): Attacker._trained,
    ("combined", "combined-token"): Attacker._combined,
    ("withheld",): Attacker._withheld,
}
MASKED = "masked"
ATTACKS = (*(name for family in _FAMILIES for name in family), MASKED)
