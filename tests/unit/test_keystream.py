"""Random bytes: ChaCha20 under keys of the operating system, one after the other, none used twice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from scipy import stats

from del_codec import keystream as module
from del_codec.keystream import BYTES_A_KEY, KEY_BYTES, keystream

# RFC 8439, appendix A.1: test vector 1 (the zero key from block 0), and the next block of the same stream (vector 2).
RFC_ZERO_KEY = (
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys taken from the operating system, as they are taken."""
    taken: list[bytes] = []

    def urandom(count: int) -> bytes:
        taken.append(original(count))
        return taken[-1]

    original = os.urandom
    monkeypatch.setattr(module.os, "urandom", urandom)
    return taken


def test_the_stream_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "urandom", bytes)
    assert keystream(128).hex() == RFC_ZERO_KEY


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 4096, BYTES_A_KEY, BYTES_A_KEY + 1, 2 * BYTES_A_KEY])
def test_every_call_and_every_so_many_bytes_take_a_new_key(keys: list[bytes], count: int) -> None:
    for _ in range(3):
        assert len(keystream(count)) == count
    assert len(keys) == 3 * -(-count // BYTES_A_KEY)
    assert {len(key) for key in keys} <= {KEY_BYTES}
    assert len(set(keys)) == len(keys)


def test_bytes_are_uniform() -> None:
    counts = Counter(keystream(1 << 20))
    assert len(counts) == 256
    assert stats.chisquare(list(counts.values())).pvalue > 1e-7


FORKS = """
import os
import numpy as np
from del_codec.keystream import keystream
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
latents, setting = np.zeros(256, dtype=np.int8), NoiseSetting(BITS, 99_999)
draw = lambda: (keystream(32) + randomize(latents, setting).tobytes()).hex()
draw()
forked = [os.fork() for _ in range(3)]
os.write(1, (draw() + "\\n").encode())
if all(forked):
    for child in forked:
        os.waitpid(child, 0)
"""


@pytest.mark.parametrize("bits", [1, 8])
def test_forked_children_draw_what_neither_parent_nor_sibling_draws(bits: int) -> None:
    script = FORKS.replace("BITS", str(bits))
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()
    assert len(lines) == 8  # three forks in a row make eight processes
    assert len({line[:64] for line in lines}) == len({line[64:] for line in lines}) == 8


def test_threads_draw_different_bytes() -> None:
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(keystream, [32] * 2000))
    assert len(set(drawn)) == len(drawn)
