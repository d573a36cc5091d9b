"""docs/wire-format.md says what the code does: its example byte for byte, its limits and its table of errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from del_codec.frame import MAX_SEGMENT_TOKENS, PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_server import config
from del_server.access.quotas import STREAMS_OF_ONE
from del_server.app import WAITING_PER_SLOT
from del_server.engine.base import MAX_LOGPROBS, MAX_TEMPERATURE
from del_server.service.messages import segment_from_pb
from del_server.service.servicer import CHUNK_BYTES
from del_server.status import _KINDS, problem_of

PAGE = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
LEVELS = np.array([[1, 2, 3], [4, 5, 7]], dtype=np.uint8)


def example(text: str) -> str:
    """The indented line after `text`."""
    found = re.search(re.escape(text) + r"\n\n    (.+)\n", PAGE)
    assert found, text
    return found[1]


def test_the_levels_of_the_example_make_its_payload() -> None:
    assert np.array_equal(LEVELS.ravel(), np.array(example("with the levels").split(), dtype=np.uint8))
    payload = bytes.fromhex(example("the payload"))
    assert PrivateSegment.from_levels(LEVELS, NoiseSetting(3, 88898)).payload == payload


def test_the_message_of_the_example_is_its_segments() -> None:
    request = pb.GenerateRequest.FromString(bytes.fromhex(example("the whole message is")))
    assert request.query_id == 1
    public, private = request.segments.segments
    assert list(public.public.token_ids) == [1, 300]
    segment = segment_from_pb(private, 1)
    assert isinstance(segment, PrivateSegment)
    assert (segment.setting, segment.tokens) == (NoiseSetting(3, 88898), 2)
    assert np.array_equal(segment.levels(3), LEVELS)
    stated = [float(number) for number in example("are, to three places,").split()]
    assert np.round(segment.latents(3).ravel(), 3).tolist() == np.array(stated, dtype=np.float32).tolist()


def test_every_reason_stands_in_the_table_with_its_code() -> None:
    stated = set(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", PAGE, flags=re.MULTILINE))
    internal = problem_of(RuntimeError())
    assert stated == {(reason, code.name) for code, reason in _KINDS.values()} | {(internal.reason, internal.code.name)}


def test_the_limits_are_the_codes() -> None:
    for number in (
        f"{config.SEGMENTS} a prompt",
        f"| {MAX_SEGMENT_TOKENS} |",
        f"candidates, {config.MESSAGE_BYTES} at least |",
        f"| {config.QUERIES_PER_STREAM} unfinished |",
        f"| {config.CANDIDATES} a call |",
        f"| {config.CANDIDATE_TOKENS} a call,",
        f"{WAITING_PER_SLOT + 1} times `--max-concurrent`",
        f"| streams | {config.STREAMS} |",
        f"| streams of one caller | {STREAMS_OF_ONE},",
        f"`--connection-age`, {config.ServeConfig().connection_age:g} s",
        f"| {config.DEFAULT_NEW_TOKENS}, or what",
        f"0 to {MAX_LOGPROBS} alternatives",
        f"0 to {MAX_TEMPERATURE:g};",
        f"chunks of {CHUNK_BYTES} bytes",
    ):
        assert number in PAGE
