"""Integers of n bits to bytes and back: most significant bit first, no gaps, zero padding in the last byte.

Knows nothing of tokens or noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from del_codec.errors import FrameError, InvalidValue
from del_codec.noise import check_bits


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
    planes = np.unpackbits(flat[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(planes).tobytes()


def unpack(payload: bytes, count: int, bits: int) -> npt.NDArray[np.uint8]:
    """The `count` integers that `payload` holds.

    Raises FrameError unless the payload has exactly packed_size(count, bits) bytes and its padding bits are zero:
    every sequence of integers has one encoding, so nothing can ride along in the padding.
    """
    check_bits(bits)
    expected = packed_size(count, bits)
    if len(payload) != expected:
        raise FrameError("payload", f"{len(payload)} bytes", f"{count} integers of {bits} bits take {expected} bytes")
    flat = np.frombuffer(payload, dtype=np.uint8)
    if bits == 8:
        return flat.copy()
    planes = np.unpackbits(flat)
    if planes[count * bits :].any():
        raise FrameError("payload", "non-zero padding", "the bits after the last integer must be zero")
    shifted = np.zeros((count, 8), dtype=np.uint8)
    shifted[:, 8 - bits :] = planes[: count * bits].reshape(count, bits)
    return np.packbits(shifted, axis=1)[:, 0]
