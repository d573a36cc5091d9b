"""What a setting can leak at all, whatever the attack: information, caps on token recovery, epsilon.

Everything is of one token. Knows nothing of texts and attacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from del_codec.accounting import certify
from del_codec.caps import cap_prior, cap_uniform
from del_codec.released import release_of
from del_server.evaluation.channel import BinomialChannel

DELTA = 1e-5
SAMPLES = 4096
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Leakage:
    """epsilon: exact, one token, at delta = 1e-5. cap_uniform, cap_prior: the largest share of tokens that any attack
    on one token's levels can name, over equally likely tokens and under the unigram prior (no context), proven.
    bits_limit: u*d*(1 - H(p+)), bits that one token's levels can carry at most. bits: what they do carry under the
    unigram prior, the mutual information of this table by Monte Carlo, with its standard error bits_error.
    """

    epsilon: float
    cap_uniform: float
    cap_prior: float
    bits_limit: float
    bits: float
    bits_error: float

    @classmethod
    def of(cls, channel: BinomialChannel, samples: int = SAMPLES) -> Leakage:
        """Of one channel; `samples` tokens are drawn from the unigram prior for `bits`."""
        table, setting = channel.table, channel.setting
        release = release_of(table, setting, 1)
        p = release.p_plus
        entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if p < 1 else 0.0
        gained = _information(channel, samples)
        return cls(
            epsilon=certify([release], unit="token", tokens=1, delta=DELTA).epsilon,
            cap_uniform=cap_uniform(release, table.spec.vocabulary),
            cap_prior=cap_prior(release, table.prior),
            bits_limit=setting.levels * table.spec.dim * (1 - entropy),
            bits=float(gained.mean()),
            bits_error=float(gained.std()) / math.sqrt(len(gained)),
        )


@torch.inference_mode()
def _information(channel: BinomialChannel, samples: int) -> Tensor:
    """log2 P(w | levels) / P(w) of tokens w drawn from the prior, [samples]; its mean is the mutual information."""
    prior = channel.table.prior
    log_prior = torch.from_numpy(np.log(prior)).to(channel.device, torch.float32)
    weights = torch.from_numpy(prior).to(channel.device)
    ids = torch.multinomial(weights, samples, replacement=True, generator=_seeded(channel.device))
    gained = []
    for some in torch.split(ids, _CHUNK):
        scores = channel.log_likelihood(channel.rehearse(some))
        evidence = torch.logsumexp(scores + log_prior, dim=-1)
        gained.append(scores.gather(1, some.unsqueeze(1)).squeeze(1) - evidence)
    return torch.cat(gained) / math.log(2)


def _seeded(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(0)
