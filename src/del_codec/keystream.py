"""The source of privacy's random bytes: ChaCha20 under a key of the operating system's CSPRNG, a new key each call.

No state outlives a call: nothing to share between threads, nothing for a forked child or a restored snapshot to repeat,
and no key in memory by which bits already sent could be drawn again. ChaCha20 is fast, and of constant time, on
processors without AES instructions too. Knows nothing of what the bytes are for.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

KEY_BYTES = 32
# The most that is drawn under one key.
BYTES_A_KEY = 1 << 20
_COUNTER_AND_NONCE = bytes(16)


def keystream(count: int) -> bytes:
    """`count` bytes that can't be told from uniform, independent ones; see docs/privacy.md for the argument."""
    pieces = [_under_one_key(min(BYTES_A_KEY, count - start)) for start in range(0, count, BYTES_A_KEY)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _under_one_key(count: int) -> bytes:
    # One key makes one stream, so the nonce need not differ.
    cipher = Cipher(algorithms.ChaCha20(os.urandom(KEY_BYTES), _COUNTER_AND_NONCE), mode=None)
    return cipher.encryptor().update(bytes(count))
