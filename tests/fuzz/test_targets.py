"""Every parser meets what was kept of fuzzing, and changes of it, in a test's time. docs/fuzzing.md says more."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from del_codec import bitpack
from del_codec.errors import FrameError
from del_codec.v1 import inference_pb2 as pb

from .target import NAMES, Target, check_within_memory, kept, load

_EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=8)), min_size=1, max_size=4)


def _edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Each edit replaces so many bytes at so far into the data by others."""
    for place, removed, added in edits:
        at = round(place * len(data))
        data = data[:at] + added + data[at + removed :]
    return data


@pytest.mark.parametrize("name", NAMES)
def test_sound_inputs_and_those_that_were_kept_hold(name: str) -> None:
    target = load(name)
    for data in [*target.seeds(), *kept(name)]:
        check_within_memory(target, data)


@pytest.mark.parametrize("name", NAMES)
def test_changed_inputs_hold(name: str) -> None:
    target = load(name)
    known = [*target.seeds(), *kept(name)]

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(known), st.integers(0, 1 << 32), _EDITS)
    def hold(data: bytes, seed: int, edits: list[tuple[float, int, bytes]]) -> None:
        change: Callable[[bytes], bytes] = lambda part: _edited(part, edits)  # noqa: E731
        changed = change(data) if target.mutate is None else target.mutate(data, change, random.Random(seed))
        target.check(changed[: target.most_bytes])

    hold()


def test_a_parser_that_takes_what_it_must_refuse_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    private = pb.PrivateSegment(bits=1, noise_scale=1 << 17, tokens=1, payload=b"\xff")
    padded = pb.Segment(private=private).SerializeToString()
    target = load("frame")
    target.check(padded)
    lenient = bitpack.unpack

    def without_padding(payload: bytes, count: int, bits: int) -> object:
        try:
            return lenient(payload, count, bits)
        except FrameError:
            return lenient(bytes([payload[0] & 0xE0]), count, bits)

    monkeypatch.setattr("del_codec.frame.unpack", without_padding)
    with pytest.raises(AssertionError):
        target.check(padded)


def test_a_parser_that_fails_in_another_way_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    target = load("table")

    def broken(_: bytes) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("safetensors.numpy.load", broken)
    with pytest.raises(ZeroDivisionError):
        target.check(next(iter(target.seeds())))


def test_a_parser_that_takes_too_much_memory_is_caught() -> None:
    def greedy(_: bytes) -> None:
        bytes(1 << 16)

    target = Target(greedy, list, memory=lambda size: size + 1024, modules=())
    with pytest.raises(AssertionError, match="were held for an input of 3"):
        check_within_memory(target, b"abc")
