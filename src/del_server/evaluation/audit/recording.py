"""Recording: what a server received of two tokens, frame after frame, in turns. Knows nothing of what it is tested for.

A frame repeats one token, each time a fresh draw: a prompt that no one writes, and the sharpest question that one can
ask of a randomiser. Where frames come from is a Sender's affair: the device's encoder, or a real server's record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from del_codec.encode import encode
from del_codec.errors import FrameError, InvalidValue
from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment
from del_codec.noise import GRID, NoiseSetting
from del_codec.release import Release
from del_codec.released import release_of
from del_codec.table import LatentTable
from del_server.evaluation.audit.pair import Pair

Levels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

MAX_LEVELS = 1 << 31


@dataclass(frozen=True, slots=True)
class Frame:
    """A private segment as a server received it.

    at: when, in seconds since the epoch. around: the rest of its message as bytes, without the segment's payload and
    the query's number: what must not depend on private tokens.
    """

    at: float
    segment: PrivateSegment
    around: bytes = b""


Sender = Callable[[Sequence[int], NoiseSetting], Frame]


def encoder(table: LatentTable) -> Sender:
    """Frames of this process: from the device's encoder straight to the server's reader."""

    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        segment = encode(table, token_ids, setting)
        return Frame(time.time(), segment)

    return send


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """levels: of each of the two tokens [n, d], in the order received. frame_tokens: T, of every frame.

    thresholds: int64 [2, d], the laws that they should have. refused: what the server's reader said of frames that it
    refused, whose levels are left out. around: all that was seen around payloads. release: one token's.
    """

    setting: NoiseSetting
    thresholds: npt.NDArray[np.int64]
    release: Release
    levels: tuple[Levels, Levels]
    frame_tokens: int
    refused: tuple[str, ...]
    around: frozenset[bytes]

    @classmethod
    def of(
        cls, table: LatentTable, pair: Pair, setting: NoiseSetting, frames: Sequence[tuple[Frame, Frame]]
    ) -> Recording:
        """Read frames, one of each token in turns, all of as many tokens as the first."""
        refused: list[str] = []
        tokens = frames[0][0].segment.tokens if frames else 1
        kept: tuple[list[Levels], list[Levels]] = ([], [])
        for turn in frames:
            for frame, levels in zip(turn, kept, strict=True):
                try:
                    levels.append(_read(frame.segment, tokens, table.spec.dim, setting))
                except FrameError as error:
                    refused.append(str(error))
        empty = np.zeros((0, table.spec.dim), dtype=np.uint8)
        first, second = (np.concatenate([empty, *levels]) for levels in kept)
        around = frozenset(frame.around for turn in frames for frame in turn)
        thresholds = setting.thresholds(table.rows(pair))
        release = release_of(table, setting, 1)
        return cls(setting, thresholds, release, (first, second), tokens, tuple(refused), around)

    @property
    def probabilities(self) -> Floats:
        """p [2, d] of each token's draws; exact in float64."""
        return self.thresholds / GRID

    @property
    def draws(self) -> int:
        """Draws of the token with fewer."""
        return min(len(levels) for levels in self.levels)

    def residuals(self, which: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Levels of one token's draws from start to stop, less their mean, over their standard deviation, [n, d]."""
        p, levels = self.probabilities[which], self.setting.levels
        some = self.levels[which][start:stop].astype(np.float32)
        deviation = np.sqrt(levels * p * (1 - p)).astype(np.float32)
        standard: npt.NDArray[np.float32] = (some - (levels * p).astype(np.float32)) / deviation
        return standard


def record(
    sender: Sender, table: LatentTable, pair: Pair, setting: NoiseSetting, draws: int, frame_tokens: int
) -> Recording:
    """At least `draws` draws of each token, in whole frames of `frame_tokens`, one token's after the other's."""
    if not 1 <= frame_tokens <= MAX_SEGMENT_TOKENS:
        raise InvalidValue("frame_tokens", frame_tokens, f"a frame has 1 to {MAX_SEGMENT_TOKENS} tokens")
    most = MAX_LEVELS // (2 * table.spec.dim)
    if not 1 <= draws <= most:
        raise InvalidValue("draws", draws, f"use 1 to {most} draws at {table.spec.dim} dimensions")
    first, second = ([token] * frame_tokens for token in pair)
    turns = -(-draws // frame_tokens)
    frames = [(sender(first, setting), sender(second, setting)) for _ in range(turns)]
    return Recording.of(table, pair, setting, frames)


def _read(segment: PrivateSegment, tokens: int, dim: int, setting: NoiseSetting) -> Levels:
    if (segment.tokens, segment.setting) != (tokens, setting):
        raise FrameError("tokens", segment.tokens, f"every frame should have {tokens} tokens at {setting}")
    return segment.levels(dim)
