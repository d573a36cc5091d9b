"""Integers of n bits to bytes and back: most significant bit first, no gaps, zero padding in the last byte.

Knows nothing of tokens or noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.errors import FrameError, InvalidValue
from del_codec.noise import check_bits

# Eight integers ride in one 64-bit word: each step joins neighbours of so many bits, whose lower ones the mask keeps.
_LANES = ((8, np.uint64(0x00FF00FF00FF00FF)), (16, np.uint64(0x0000FFFF0000FFFF)), (32, np.uint64(0xFFFFFFFF)))


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take: ceil(count * bits / 8)."""
    return (count * bits + 7) // 8


def pack(levels: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Pack integers below 2^bits, in C order.

    Raises InvalidValue for an integer that does not fit.
    """
    check_bits(bits)
    flat = np.ascontiguousarray(levels, dtype=np.uint8).ravel()
    if flat.size and int(flat.max()) >> bits:
        raise InvalidValue("levels", int(flat.max()), f"every level must be below {1 << bits} at {bits} bits")
    if bits == 8:
        return flat.tobytes()
    if bits == 1:
        return np.packbits(flat).tobytes()
    eights = np.zeros((flat.size + 7) // 8 * 8, dtype=np.uint8)
    eights[: flat.size] = flat
    lanes = eights.view(">u8").astype(np.uint64)
    for width, low in _LANES:
        joined = np.uint64(bits * width // 8)
        lanes = (((lanes >> np.uint64(width)) & low) << joined) | (lanes & low)
    if bits in (2, 4):
        return lanes.astype(f">u{bits}").tobytes()[: packed_size(flat.size, bits)]
    packed = lanes.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits :]
    return packed.tobytes()[: packed_size(flat.size, bits)]


def unpack(payload: bytes, count: int, bits: int) -> npt.NDArray[np.uint8]:
    """The `count` integers that `payload` holds.

    Raises FrameError unless the payload has exactly packed_size(count, bits) bytes and its padding bits are zero:
    every sequence of integers has one encoding, so nothing can ride along in the padding.
    """
    check_bits(bits)
    expected = packed_size(count, bits)
    if len(payload) != expected:
        raise FrameError("payload", f"{len(payload)} bytes", f"{count} integers of {bits} bits take {expected} bytes")
    used = count * bits % 8
    if used and payload[-1] & (0xFF >> used):
        raise FrameError("payload", "non-zero padding", "the bits after the last integer must be zero")
    flat = np.frombuffer(payload, dtype=np.uint8)
    if bits == 8:
        return flat.copy()
    if bits == 1:
        return np.unpackbits(flat, count=count)
    eights = np.zeros(((count + 7) // 8, 8), dtype=np.uint8)
    padded = np.zeros(len(eights) * bits, dtype=np.uint8)
    padded[: flat.size] = flat
    eights[:, 8 - bits :] = padded.reshape(-1, bits)
    lanes = eights.view(">u8").astype(np.uint64)
    for width, low in reversed(_LANES):
        joined = np.uint64(bits * width // 8)
        lanes = (((lanes >> joined) & low) << np.uint64(width)) | (lanes & ~(low << joined))
    return lanes.astype(">u8").view(np.uint8).ravel()[:count]
