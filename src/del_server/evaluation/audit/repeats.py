"""Are draws fresh? Equal draws, and draws that resemble those some way before them, give away reused random bits.

Knows nothing of what the random bits should be.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from del_server.evaluation.audit.recording import Levels, Recording

_LONGEST = 1 << 20  # coordinates that are compared with those before them
_SHARE = 2


def repeats(recording: Recording) -> float:
    """Equal draws, and equal frames, of one token: at most their expected number of pairs over those seen (Markov)."""
    found = []
    for which, levels in enumerate(recording.levels):
        p = recording.probabilities[which]
        k = np.arange(recording.setting.levels + 1)[:, None]
        alike = float(np.log(np.square(stats.binom.pmf(k, recording.setting.levels, p)).sum(axis=0)).sum())
        for tokens in {1, recording.frame_tokens}:
            pieces = levels.reshape(len(levels) // tokens, -1)
            expected = np.exp(alike * tokens) * len(pieces) * (len(pieces) - 1) / 2
            seen = _equal_pairs(pieces)
            found.append(expected / seen if seen else 1.0)
    return float(min(1.0, len(found) * min(found)))


def serial(recording: Recording) -> float:
    """Correlation of coordinates with those any distance before them, in the order in which they were received.

    Frames of the two tokens alternate, so random bits that were used again are found whatever they were used for.
    """
    sequence = _sequence(recording)
    lags = len(sequence) // _SHARE
    if not lags:
        return 1.0
    spectrum = np.fft.rfft(sequence, 2 * len(sequence))
    products = np.fft.irfft(np.square(np.abs(spectrum)), 2 * len(sequence))[1 : lags + 1]
    z = np.abs(products) / np.sqrt(len(sequence) - np.arange(1, lags + 1))
    return float(min(1.0, 2 * stats.norm.sf(z.max()) * lags))


def _sequence(recording: Recording) -> npt.NDArray[np.float32]:
    """Residuals of the first coordinates received, of both tokens in turns, frame by frame."""
    dim, tokens = recording.levels[0].shape[1], recording.frame_tokens
    turns = min(recording.draws // tokens, max(1, _LONGEST // (2 * tokens * dim)))
    both = [recording.residuals(which, 0, turns * tokens).reshape(turns, -1) for which in (0, 1)]
    return np.stack(both, axis=1).ravel()


def _equal_pairs(pieces: Levels) -> int:
    rows = np.ascontiguousarray(pieces).view(np.dtype((np.void, pieces.shape[1]))).ravel()
    _, times = np.unique(rows, return_counts=True)
    return int((times * (times - 1) // 2).sum())
