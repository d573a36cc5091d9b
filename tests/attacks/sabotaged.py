"""Randomisers with a fault planted in them, each as one might slip in, for the audit to catch. They live here alone.

A fault is a sender, which takes the device's path but for the fault, and the randomiser in it that takes chosen bytes
(the honest one where the fault lies elsewhere).
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from del_codec.frame import PrivateSegment
from del_codec.keystream import keystream
from del_codec.laws import LAWS, Binomials, Coins, RandomBytes
from del_codec.noise import GRID, LATENT_MAX, NoiseSetting
from del_codec.randomize import randomize
from del_codec.table import LatentTable
from del_server.evaluation.audit.decisions import Randomizer
from del_server.evaluation.audit.recording import Frame, Sender

Latents = npt.NDArray[np.int8]
Levels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Fault:
    """plant: makes the sender and the randomiser. caught_by: tests of which one at least must give an alarm."""

    plant: Callable[[LatentTable], tuple[Sender, Randomizer]]
    bits: int
    caught_by: tuple[str, ...]
    dim: int = 64


def _sender(table: LatentTable, randomizer: Randomizer, random_bytes: RandomBytes = keystream) -> Sender:
    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        levels = randomizer(table.rows(token_ids), setting, random_bytes)
        return Frame(time.time(), PrivateSegment.from_levels(levels, setting))

    return send


def _with_thresholds(change: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Randomizer:
    """Exact but for the thresholds, as probabilities."""

    @cache
    def laws_of(setting: NoiseSetting) -> Coins | Binomials:
        latents = np.arange(LAWS, dtype=np.uint8).view(np.int8)
        p = setting.thresholds(np.maximum(latents, -LATENT_MAX)) / GRID
        thresholds = np.clip(np.round(change(p) * GRID), 1, GRID - 1).astype(np.int64)
        return Coins(thresholds) if setting.levels == 1 else Binomials.build(thresholds, setting.levels)

    def draw(latents: Latents, setting: NoiseSetting, random_bytes: RandomBytes = keystream) -> Levels:
        flat = np.ascontiguousarray(latents).ravel().view(np.uint8)
        return laws_of(setting).draw(flat, random_bytes).reshape(latents.shape)

    return draw


def _on_grid(grid_bits: int) -> Randomizer:
    """An inverse distribution function at a uniform number of so many bits, rounded as floats are."""

    def draw(latents: Latents, setting: NoiseSetting, random_bytes: RandomBytes = keystream) -> Levels:
        words = np.frombuffer(random_bytes(4 * latents.size), dtype=">u4") >> np.uint32(32 - grid_bits)
        levels = np.zeros(latents.size, dtype=np.uint8)
        flat = latents.ravel()
        for latent in np.unique(flat):
            p = int(setting.thresholds(np.array([latent]))[0]) / GRID
            rising = np.round(stats.binom.cdf(np.arange(setting.levels), setting.levels, p) * 2.0**grid_bits)
            places = flat == latent
            levels[places] = np.searchsorted(rising, words[places], side="right")
        return levels.reshape(latents.shape)

    return draw


def off_by(share: float) -> Callable[[LatentTable], tuple[Sender, Randomizer]]:
    """Every probability too large by a share of itself."""
    wrong = _with_thresholds(lambda p: p * (1 + share))
    return lambda table: (_sender(table, wrong), wrong)


def weaker_noise(factor: float) -> Callable[[LatentTable], tuple[Sender, Randomizer]]:
    """Every probability farther from one half: noise weaker than its setting says."""
    wrong = _with_thresholds(lambda p: 0.5 + (p - 0.5) * factor)
    return lambda table: (_sender(table, wrong), wrong)


def finite_grid(grid_bits: int) -> Callable[[LatentTable], tuple[Sender, Randomizer]]:
    """No level is rarer than the grid is fine."""
    wrong = _on_grid(grid_bits)
    return lambda table: (_sender(table, wrong), wrong)


def _from_bytes(make: Callable[[], RandomBytes]) -> Callable[[LatentTable], tuple[Sender, Randomizer]]:
    return lambda table: (_sender(table, randomize, make()), randomize)


def one_key() -> RandomBytes:
    """The stream of one key, from its beginning at each call."""
    stream = os.urandom(1 << 17)
    return lambda count: stream[:count]


def key_for_two() -> RandomBytes:
    """A key for every two frames: the second of a prompt's segments repeats the first one's stream."""
    streams: dict[int, bytes] = {}
    calls = itertools.count()

    def take(count: int) -> bytes:
        if count < 1024:  # ties
            return os.urandom(count)
        number = next(calls) // 2
        return streams.setdefault(number, os.urandom(count))[:count]

    return take


def small_key() -> RandomBytes:
    """A key of 12 bits."""
    return lambda count: random.Random(int.from_bytes(os.urandom(2), "big") >> 4).randbytes(count)


def shared_coins() -> RandomBytes:
    """Each two neighbours have the same random byte."""
    return lambda count: np.repeat(np.frombuffer(os.urandom(-(-count // 2)), np.uint8), 2)[:count].tobytes()


def clock_seeded(table: LatentTable) -> tuple[Sender, Randomizer]:
    """A generator seeded with the milliseconds of the clock, which goes 5 ms a frame here: no seed comes twice."""
    start, frames = time.time(), itertools.count()

    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        now = start + next(frames) * 0.005
        source = random.Random(int(now * 1000)).randbytes
        segment = PrivateSegment.from_levels(randomize(table.rows(token_ids), setting, source), setting)
        return Frame(now + 0.012, segment)

    return send, randomize


def padded_with_ids(table: LatentTable) -> tuple[Sender, Randomizer]:
    """The bits after the last level hold the low bits of the first token's id."""
    honest = _sender(table, randomize)

    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        frame = honest(token_ids, setting)
        free = -len(token_ids) * table.spec.dim * setting.bits % 8
        payload = bytearray(frame.segment.payload)
        payload[-1] |= token_ids[0] & ((1 << free) - 1)
        return Frame(frame.at, PrivateSegment(setting, len(token_ids), bytes(payload)))

    return send, randomize


def talking_around(table: LatentTable) -> tuple[Sender, Randomizer]:
    """A message's own padding is longer for some tokens than for others."""
    honest = _sender(table, randomize)

    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        frame = honest(token_ids, setting)
        return Frame(frame.at, frame.segment, bytes(token_ids[0]))

    return send, randomize


# One at least of each kind that an audit has to catch, and what else was thought of.
FAULTS = {
    "p off by 2 %": Fault(off_by(0.02), 1, ("counts",)),
    "p off by -2 %, 4 bits": Fault(off_by(-0.02), 4, ("counts",)),
    "noise at half its scale": Fault(weaker_noise(2.0), 1, ("epsilon",)),
    "reused keystream": Fault(_from_bytes(one_key), 1, ("repeats",)),
    "keystream used twice": Fault(_from_bytes(key_for_two), 1, ("serial",)),
    "key of 12 bits": Fault(_from_bytes(small_key), 1, ("repeats",)),
    "coins shared by neighbours": Fault(_from_bytes(shared_coins), 1, ("coordinates",)),
    "seeded from time": Fault(clock_seeded, 1, ("seeds",)),
    "finite grid, 12 bits": Fault(finite_grid(12), 8, ("levels", "tails")),
    "finite grid, 32 bits": Fault(finite_grid(32), 8, ("decisions",)),
    "padding bits": Fault(padded_with_ids, 1, ("format",), dim=15),
    "padding of the message": Fault(talking_around, 1, ("format",)),
}
