"""What is sent on the benchmark's cable is what each way would send, and the service takes all of it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cable import SERVER, Cable, refused
from benchmarks.carried import CHARACTERS, IDS, JSON, PEERS, PLAIN, WIDTH, messages, private
from benchmarks.line import Line
from benchmarks.wire_cost import RATES, UNSHAPED, bearable, counted, payload_bytes
from benchmarks.wire_server import DOORS, Door, behind
from del_codec.encode import encode
from del_codec.errors import FrameError
from del_codec.noise import NoiseSetting
from del_server.app import load
from del_server.backend import Backend
from del_server.config import ServeConfig

TOKENS = 100


@pytest.fixture(scope="module")
def backend(tiny_model: Path, tiny_codec: Path) -> Backend:
    return load(ServeConfig(model=str(tiny_model), codecs=(tiny_codec,), device="cpu"))


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
    assert all(bearable(private(8), rate, 25.0) for rate in (*RATES, UNSHAPED))
    assert not bearable("float32 embeddings", 64e3, 25.0)
    assert bearable("float32 embeddings", UNSHAPED, 25.0)


def test_every_way_is_counted_at_every_length_with_tls_and_without() -> None:
    steps = {step.label for step in counted(Line(), quick=False)}
    ways = [*map(private, range(1, 9)), *PEERS]
    for way, on in product(ways, ("on", "off")):
        assert {
            f"bytes: {way}, {tokens} tokens, 1 at once, TLS {on}" for tokens in (1, 16, 64, 256, 1024, 4096)
        } < steps
        assert f"bytes: {way}, 256 tokens, 16 at once, TLS {on}" in steps


@pytest.mark.skipif(bool(refused()), reason=refused())
def test_the_kernel_counts_what_passes_a_cable() -> None:
    with Cable("") as cable:
        before = cable.carried()
        send = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(bytes(1000), ({SERVER!r}, 9))"
        subprocess.run(cable.within(cable.device, sys.executable, "-c", send), check=True)
        up, down = (after - was for after, was in zip(cable.carried(), before, strict=True))
    # Ethernet, IP and UDP have headers of 14, 20 and 8 bytes; the two sides look each other up besides.
    assert 1042 <= up < 1500
    assert down < 1042


def namespaces_of(pid: int) -> set[str]:
    """Of a process's descendants."""
    found = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            identified = subprocess.run(["ip", "netns", "identify", str(child)], capture_output=True, text=True)
            found |= {identified.stdout.strip(), *namespaces_of(child)} - {""}
    return found


@pytest.mark.skipif(bool(refused()), reason=refused())
def test_a_run_that_is_told_to_end_leaves_no_namespace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "wire", "--quick", "--rounds", "2", "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (made := namespaces_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not [name for name in made if name in left]


class TestDoors:
    def test_each_has_an_engine_and_metrics_of_its_own(self, backend: Backend) -> None:
        servers = [behind(door, backend) for door in DOORS]
        assert len({id(server.engine) for server in servers}) == len({id(server.metrics) for server in servers}) == 4
        assert {(door.tls, door.decoded) for door in DOORS} == set(product((False, True), repeat=2))

    def test_without_a_decoder_private_prompts_are_still_read_and_checked(self, backend: Backend) -> None:
        (codec,) = behind(Door(tls=False, decoded=False), backend).codecs
        segment = encode(codec.table, [1, 2, 3], NoiseSetting.from_mu(8.0, codec.table.spec.dim, 2))
        assert codec.decoder([segment]).shape == (3, codec.table.spec.embedding_width)
        with pytest.raises(FrameError):
            codec.decoder([replace(segment, payload=b"")])
