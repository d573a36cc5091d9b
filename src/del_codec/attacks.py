"""What a server can read from one token's levels alone: maximum likelihood (ML) and maximum a posteriori (MAP).

The server knows the table and the noise setting, so each token's likelihood is exact:
log P(K | w) = <K, theta_w> + u * sum_i log(1 - p_{w,i}) + const, theta = logit p, p = t / 2^32.
Attacks that use the sentence around a token need a language model and live with the evaluation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.noise import GRID, LATENT_MAX, NoiseSetting
from del_codec.table import LatentTable

_CHUNK = 64


def log_odds(setting: NoiseSetting) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """theta and log(1 - p) of each of the 255 latents, both [255], index q + 127."""
    latents = np.arange(-LATENT_MAX, LATENT_MAX + 1).astype(np.int8)
    p = setting.thresholds(latents) / GRID
    return np.log(p) - np.log1p(-p), np.log1p(-p)


class TokenAttack:
    """The attack at one setting, with what all tokens have in common made ready in 4 V d bytes.

    prior None is uniform (ML).
    """

    def __init__(self, table: LatentTable, setting: NoiseSetting, prior: npt.NDArray[np.float64] | None) -> None:
        theta, log_complement = log_odds(setting)
        index = table.latents.astype(np.int16) + LATENT_MAX
        bias = setting.levels * log_complement[index].sum(axis=1)
        if prior is not None:
            bias = bias + np.log(prior)
        self._bias = bias.astype(np.float32)
        self._weights = theta.astype(np.float32)[index]

    def scores(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """log P(K_t | w) + log prior(w) up to a constant of t, [T, V], for levels [T, d]."""
        scores: npt.NDArray[np.float32] = levels.astype(np.float32) @ self._weights.T
        scores += self._bias
        return scores

    def guess(self, levels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The likeliest token of each position [T] and its posterior probability [T], from levels [T, d]."""
        guesses, posteriors = [np.zeros(0, np.int64)], [np.zeros(0)]
        for start in range(0, len(levels), _CHUNK):
            scores = self.scores(levels[start : start + _CHUNK])
            best = scores.argmax(axis=1)
            scores -= scores[np.arange(len(best)), best][:, None]
            guesses.append(best.astype(np.int64))
            posteriors.append(1 / np.exp(scores, out=scores).sum(axis=1, dtype=np.float64))
        return np.concatenate(guesses), np.concatenate(posteriors)


def token_scores(
    table: LatentTable, levels: npt.NDArray[np.uint8], setting: NoiseSetting, prior: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float32]:
    """TokenAttack.scores, once."""
    return TokenAttack(table, setting, prior).scores(levels)


def map_guess(
    table: LatentTable, levels: npt.NDArray[np.uint8], setting: NoiseSetting, prior: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """TokenAttack.guess, once."""
    return TokenAttack(table, setting, prior).guess(levels)
