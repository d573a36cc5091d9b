"""Segments, the pieces of a prompt: what leaves a device, before and after the wire.

A private segment is packed levels with their own noise setting; a public one is plain token ids. Segments stand in
the prompt's order. Every bound is checked before anything is allocated. Knows nothing of protobuf, tables or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from del_codec.bitpack import pack, packed_size, unpack
from del_codec.errors import FrameError
from del_codec.noise import NoiseSetting

MAX_SEGMENT_TOKENS = 1 << 16
MAX_SEGMENTS = 1 << 14


@dataclass(frozen=True, slots=True)
class PublicSegment:
    """Token ids that leave the device as they are."""

    token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.token_ids) <= MAX_SEGMENT_TOKENS:
            raise FrameError("token_ids", f"{len(self.token_ids)} ids", f"a segment has 1 to {MAX_SEGMENT_TOKENS}")

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class PrivateSegment:
    """Packed levels of `tokens` tokens, randomised at one setting."""

    setting: NoiseSetting
    tokens: int
    payload: bytes

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not 1 <= self.tokens <= MAX_SEGMENT_TOKENS:
            raise FrameError("tokens", self.tokens, f"a segment has 1 to {MAX_SEGMENT_TOKENS}")

    @classmethod
    def from_levels(cls, levels: npt.NDArray[np.uint8], setting: NoiseSetting) -> PrivateSegment:
        """Pack levels of shape [tokens, dim]."""
        return cls(setting, levels.shape[0], pack(levels, setting.bits))

    def levels(self, dim: int) -> npt.NDArray[np.uint8]:
        """Levels of shape [tokens, dim].

        Raises FrameError unless the payload is the one canonical encoding of tokens * dim levels.
        """
        expected = packed_size(self.tokens * dim, self.setting.bits)
        if len(self.payload) != expected:
            raise FrameError(
                "payload",
                f"{len(self.payload)} bytes",
                f"{self.tokens} tokens of {dim} coordinates at {self.setting.bits} bits take {expected} bytes",
            )
        return unpack(self.payload, self.tokens * dim, self.setting.bits).reshape(self.tokens, dim)

    def latents(self, dim: int) -> npt.NDArray[np.float32]:
        """Unbiased latents [tokens, dim] in units of the clip bound; variance (d*A^2 - |v|^2)/u a token."""
        return self.setting.estimate(self.levels(dim))


Segment = PublicSegment | PrivateSegment
