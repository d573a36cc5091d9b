"""Segments as a server reads them from the wire: protobuf, noise setting, token count, packed levels.

An input is one Segment; it is read as if the codec had each of DIMS coordinates in turn.
"""

from __future__ import annotations

import random

import numpy as np
from google.protobuf.message import DecodeError

from del_codec.bitpack import packed_size
from del_codec.errors import InvalidValue
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import MAX_SCALE, MIN_SCALE, NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_server.service.messages import segment_from_pb

from ..target import Mutate, Target

DIMS = (3, 16)
_FEW_TOKENS = 9


def check(data: bytes) -> None:
    try:
        message = pb.Segment.FromString(data)
    except DecodeError:
        return  # gRPC answers this before any of our code runs
    try:
        segment = segment_from_pb(message, 7)
    except InvalidValue as error:
        assert error.field.startswith("segments[7]."), error.field
        return
    if isinstance(segment, PublicSegment):
        assert list(segment.token_ids) == list(message.public.token_ids)
        return
    for dim in DIMS:
        _check_levels(segment, dim)


def _check_levels(segment: PrivateSegment, dim: int) -> None:
    count, bits = segment.tokens * dim, segment.setting.bits
    try:
        levels = segment.levels(dim)
    except InvalidValue as error:
        right_length = len(segment.payload) == packed_size(count, bits)
        assert not right_length or error.value == "non-zero padding", str(error)
        return
    assert levels.shape == (segment.tokens, dim)
    # Levels above 2^n - 1 are refused here; equality shows that there is no second encoding of the same ones.
    assert PrivateSegment.from_levels(levels, segment.setting) == segment


def seeds() -> list[bytes]:
    generator = np.random.default_rng(1)
    found = [pb.Segment(public=pb.PublicSegment(token_ids=[1, 2, 49151]))]
    for bits in range(1, 9):
        levels = generator.integers(0, 1 << bits, (bits, DIMS[bits % 2])).astype(np.uint8)
        private = PrivateSegment.from_levels(levels, NoiseSetting.from_mu(10, levels.shape[1], bits))
        found.append(
            pb.Segment(
                private=pb.PrivateSegment(
                    bits=bits, noise_scale=private.setting.scale, tokens=private.tokens, payload=private.payload
                )
            )
        )
    return [segment.SerializeToString() for segment in found]


def mutate(data: bytes, change: Mutate, draw: random.Random) -> bytes:
    """A private segment whose payload has the length that its numbers ask for, nearly always."""
    try:
        segment = pb.Segment.FromString(data)
    except DecodeError:
        return change(data)
    if draw.random() < 0.2:
        return change(data)
    private = segment.private
    if not 1 <= private.bits <= 8 or draw.random() < 0.3:
        private.bits = draw.randint(1, 8)
    if not MIN_SCALE <= private.noise_scale <= MAX_SCALE or draw.random() < 0.3:
        private.noise_scale = draw.choice((MIN_SCALE, MAX_SCALE, draw.randint(MIN_SCALE, MAX_SCALE)))
    if not 1 <= private.tokens <= _FEW_TOKENS or draw.random() < 0.3:
        private.tokens = draw.randint(1, _FEW_TOKENS)
    size = packed_size(private.tokens * draw.choice(DIMS), private.bits) + (draw.random() < 0.05)
    payload = bytearray((change(private.payload) if draw.random() < 0.7 else private.payload)[:size].ljust(size, b"\0"))
    if draw.random() < 0.6:
        payload[-1] &= 0xFF << draw.randint(0, 7)
    private.payload = bytes(payload)
    return segment.SerializeToString()


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 18) + 64 * size,
    modules=("del_codec.frame", "del_codec.bitpack", "del_codec.noise", "del_server.service.messages"),
    most_bytes=192,
    mutate=mutate,
)
