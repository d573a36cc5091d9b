"""A network that cuts, resets, stalls or alters what a server sends at any byte: its information, its codec, an answer.

A whole device with a ledger stands behind it. What it comes to is the answer or an error of ours; nothing is sent that
was not charged, and whatever is sent again is the same bits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from client_fakes import FakeServer, Serving, TinyCodec, client_arguments, finish, make_codec, segments_of

from benchmarks.bad_network import BadNetwork
from del_client import AsyncClient, Patience
from del_codec.errors import DelError
from del_codec.v1 import inference_pb2 as pb

SECRET = "my password is hunter2"
TOKENS = 12
PLACES = 24


async def counting(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    for token in range(len(requests[0].open.resume_token_ids), TOKENS):
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[token + 5], text=f"{token} "))
    yield finish(query_id, requests)


@dataclass
class Visit:
    """What a device got, None for an error; private payloads that came, and tokens of them; what was charged; bytes
    from the server, and how often the network erred."""

    text: str | None
    payloads: set[bytes]
    tokens: int
    charged: int
    passed: int
    faults: int


async def visit(codec: TinyCodec, folder: Path, fault: str, at: int) -> Visit:
    """One question over a network that errs once so many bytes have come, on all connections together."""
    folder.mkdir()
    server, passed, faults, text = FakeServer(codec, reply=counting), 0, 0, None

    def alter(_: int, chunk: bytes) -> bytes:
        nonlocal passed, faults
        start, passed = passed, passed + len(chunk)
        if not start <= at < passed:
            return chunk
        faults += 1
        if fault == "reset":
            network.reset()
        elif fault == "stall":
            network.stall()
            asyncio.get_running_loop().call_later(0.3, network.go_on)
        elif fault == "cut":
            asyncio.get_running_loop().call_soon(network.hang_up)
            return chunk[: at - start]
        elif fault == "alter":
            return chunk[: at - start] + bytes([chunk[at - start] ^ 0x55]) + chunk[at - start + 1 :]
        return chunk

    async with Serving(server) as there, BadNetwork(there) as network:
        network.alter = alter
        arguments = {**client_arguments(codec, folder), "patience": Patience(20, 0.01, 0.02)}
        with contextlib.suppress(DelError):
            async with AsyncClient(network.address, **arguments) as client:
                text = "".join([delta.text async for delta in client.generate(SECRET, mu=5.0)])
    queries = [segments_of(requests) for stream in server.streams for requests in stream.values()]
    private = [[piece.private for piece in segments if piece.HasField("private")] for segments in queries]
    with sqlite3.connect(folder / "ledger.sqlite3") as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'releases'").fetchone()[0]
        charged = database.execute("SELECT coalesce(sum(tokens), 0) FROM releases").fetchone()[0] if tables else 0
    database.close()
    return Visit(
        text,
        {piece.payload for pieces in private for piece in pieces},
        max((sum(piece.tokens for piece in pieces) for pieces in private), default=0),
        charged,
        passed,
        faults,
    )


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TinyCodec:
    return make_codec(tmp_path_factory.mktemp("codec"))


@pytest.mark.parametrize("fault", ["cut", "reset", "stall", "alter"])
async def test_whatever_a_network_does_wherever(codec: TinyCodec, tmp_path: Path, fault: str) -> None:
    undisturbed = await visit(codec, tmp_path / "undisturbed", "none", 0)
    expected = "".join(f"{token} " for token in range(TOKENS))
    assert undisturbed.text == expected
    outcomes = []
    for number in range(PLACES):
        at = number * undisturbed.passed // PLACES
        found = await visit(codec, tmp_path / str(number), fault, at)
        assert found.faults == 1, f"at {at}"
        assert found.text in (None, expected) or fault == "alter", f"at {at}"
        assert len(found.payloads) <= 1, f"at {at}: bits were drawn anew"
        assert found.tokens <= found.charged, f"at {at}: {found.tokens} tokens were sent, {found.charged} charged"
        outcomes.append(found.text == expected)
    assert any(outcomes)
    assert all(outcomes) or fault != "stall"
