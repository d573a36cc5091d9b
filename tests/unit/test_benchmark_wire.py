"""What is sent on the benchmark's cable is what each way would send, and the service takes all of it."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from benchmarks.carried import CHARACTERS, IDS, JSON, PEERS, PLAIN, WIDTH, messages, private
from benchmarks.wire_cost import RATES, bearable, payload_bytes

TOKENS = 100


def padding_of(way: str) -> bytes:
    return b"".join(message.padding for message in messages(way, TOKENS))


@pytest.mark.parametrize("bits", range(1, 9))
def test_private_prompts_are_packed_levels_and_little_else(bits: int) -> None:
    (message,) = messages(private(bits), TOKENS)
    (segment,) = message.open.segments
    assert len(segment.private.payload) == 8 * bits * TOKENS == payload_bytes(private(bits), TOKENS)
    assert message.ByteSize() < len(segment.private.payload) + 70


def test_embeddings_take_what_their_type_takes() -> None:
    sizes = [len(padding_of(way)) for way in PEERS[:3]]
    assert sizes == [4 * WIDTH * TOKENS, 2 * WIDTH * TOKENS, (WIDTH + 2) * TOKENS]
    assert sizes == [payload_bytes(way, TOKENS) for way in PEERS[:3]]


def test_json_is_json() -> None:
    body = json.loads(padding_of(JSON))
    embeddings = np.frombuffer(base64.b64decode(body["embeddings"]), dtype=body["dtype"]).reshape(body["shape"])
    assert embeddings.shape == (TOKENS, WIDTH)


def test_ids_and_text_are_whole() -> None:
    opening, *_ = messages(IDS, TOKENS)
    assert len(opening.open.segments[0].public.token_ids) == TOKENS == opening.open.prompt_tokens
    assert len(padding_of(PLAIN)) == CHARACTERS * TOKENS


@pytest.mark.parametrize("way", PEERS)
def test_every_message_is_one_that_a_server_takes(way: str) -> None:
    first, *between, last = messages(way, 4096)
    assert first.HasField("open")
    assert last.HasField("end")
    assert all(message.ByteSize() < 1 << 20 for message in between)


def test_what_would_take_minutes_is_left_out() -> None:
    assert all(bearable(private(8), rate) for rate in RATES)
    assert not bearable("float32 embeddings", "64kbit")
