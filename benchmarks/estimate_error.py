"""How right the server's unbiased estimate is: its bias, and its variance beside (dA^2 - |v|^2)/u, theory's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.codec_ways import MU, table_of
from benchmarks.report.results import Recorder
from del_codec.noise import LATENT_MAX, NoiseSetting
from del_codec.randomize import randomize

# Coordinates drawn: the variance of their squares leaves at most .2 % of theory to chance.
DRAWS = 1 << 19
WAY = "DEL"


@dataclass(frozen=True, slots=True)
class Error:
    """bias: mean error of a coordinate in clip bounds; deviation: what theory says of it; variance: over theory's."""

    bias: float
    deviation: float
    variance: float


def error_of(bits: int, dim: int) -> Error:
    """Of DRAWS coordinates, of rows from all over the table."""
    table, setting = table_of(dim), NoiseSetting.from_mu(MU, dim, bits)
    rows = table.rows(np.arange(DRAWS // dim) * 31 % table.spec.vocabulary)
    truth = rows / LATENT_MAX
    errors = setting.estimate(randomize(rows, setting)).astype(np.float64) - truth
    theory = (setting.amplitude**2 - truth**2) / setting.levels
    deviation = float(np.sqrt(theory.sum()) / errors.size)
    return Error(float(errors.mean()), deviation, float((errors**2).sum() / theory.sum()))


def estimate_error(bits: int, dim: int, record: Recorder) -> None:
    """One release of DRAWS coordinates."""
    error, at = error_of(bits, dim), {"bits": bits, "dim": dim}
    record.add("bias", error.bias / error.deviation, "standard errors", "neither", WAY, at)
    record.add("bias, clip bounds", error.bias, "", "neither", WAY, at)
    record.add("half of its 95 % interval", 1.96 * error.deviation, "", "neither", WAY, at)
    record.add("variance over theory", error.variance, "", "neither", WAY, at)
