"""Answers over a bad network: complete, every token once, and the same bytes sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from client_fakes import DIM, FakeServer, Serving, TinyCodec, ends, segments_of

from benchmarks.bad_network import BadNetwork
from del_client.query import Event, Finish, GenerationOptions, Limits, Query, Timings, TokenDelta, Traffic, Usage
from del_client.retrying import Patience, answer
from del_client.transport import Transport
from del_codec.errors import DelError, ExhaustedError, InvalidValue, UnavailableError
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

TOKENS = 40
QUICK = Patience(seconds=20, first_wait=0.01, longest_wait=0.1)
LEVELS = np.random.default_rng(0).integers(0, 8, (300, DIM)).astype(np.uint8)
SEGMENTS = (PublicSegment((1, 2)), PrivateSegment.from_levels(LEVELS, NoiseSetting(3, 200_000)))
QUERY = Query("ab" * 32, SEGMENTS, GenerationOptions(max_new_tokens=TOKENS, temperature=1.0, seed=5))
LIMITS = Limits(0, 0, 0, 150, 0)


def word(position: int) -> str:
    return f"{position} "


async def counting(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    """Tokens 0, 1, 2 ... of which those that the query brings along are left out."""
    for token in range(len(requests[0].open.resume_token_ids), TOKENS):
        delta = pb.TokenDelta(token_ids=[token], text=word(token))
        yield pb.GenerateResponse(query_id=query_id, delta=delta)
        await asyncio.sleep(0.002)
    finish = pb.FinishedQuery(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(), timings=pb.Timings())
    yield pb.GenerateResponse(query_id=query_id, finish=finish)


class Asked:
    """One answer through a transport, and what happened on the way."""

    def __init__(self, address: str, patience: Patience = QUICK, keepalive_seconds: float = 20.0) -> None:
        self.transport = Transport(address, 5, keepalive_seconds)
        self.traffic = Traffic()
        self.errors: list[UnavailableError] = []
        self.waits: list[float] = []
        self.patience = patience
        self.events: list[Event] = []

    def _note(self, error: UnavailableError, wait: float) -> None:
        self.errors.append(error)
        self.waits.append(wait)

    def stream(self, query: Query = QUERY) -> AsyncIterator[Event]:
        return answer(
            lambda query: self.transport.generate(query, LIMITS, self.traffic), query, self.patience, self._note
        )

    async def read(self, query: Query = QUERY) -> Finish:
        try:
            async for event in self.stream(query):
                self.events.append(event)
        finally:
            await self.transport.close()
        last = self.events[-1]
        assert isinstance(last, Finish)
        return last

    @property
    def token_ids(self) -> list[int]:
        return [token for event in self.events if isinstance(event, TokenDelta) for token in event.token_ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TokenDelta))


def is_whole(asked: Asked) -> None:
    assert asked.token_ids == list(range(TOKENS))
    assert asked.text == "".join(map(word, range(TOKENS)))


def prompts(server: FakeServer) -> list[list[pb.Segment]]:
    """The prompts that came whole, of all streams."""
    whole = [requests for stream in server.streams for requests in stream.values() if ends(requests[-1])]
    return [segments_of(requests) for requests in whole]


@pytest.mark.parametrize("cuts", [[150], [400, 400], [900, 200, 300], [60, 70, 80, 90, 100]])
async def test_an_answer_that_is_cut_short_again_and_again(codec: TinyCodec, cuts: list[int]) -> None:
    server = FakeServer(codec, reply=counting)
    async with Serving(server) as there, BadNetwork(there) as network:
        network.cut_after = list(cuts)
        asked = Asked(network.address)
        finish = await asked.read()
    is_whole(asked)
    assert finish.usage.new_tokens == TOKENS
    assert 1 <= finish.interruptions <= len(cuts)
    assert network.connections == len(cuts) + 1
    sent = prompts(server)
    assert all(prompt == sent[0] for prompt in sent)
    openings = [requests[0].open for stream in server.streams for requests in stream.values()]
    assert {opening.options.seed for opening in openings} == {5}
    resumed = [len(opening.resume_token_ids) for opening in openings]
    assert resumed == sorted(resumed)
    total = sum(r.ByteSize() + 5 for stream in server.streams for requests in stream.values() for r in requests)
    assert finish.wire_bytes >= total  # what was lost on the way counts, too


async def test_resets_in_the_middle(codec: TinyCodec) -> None:
    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        asked = Asked(network.address)
        async for event in asked.stream():
            asked.events.append(event)
            if len(asked.events) in (3, 4, 20):
                network.reset()
        await asked.transport.close()
    is_whole(asked)


async def test_a_slow_network_changes_nothing(codec: TinyCodec) -> None:
    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        network.delay = 0.1
        asked = Asked(network.address)
        assert (await asked.read()).interruptions == 0
    is_whole(asked)


async def test_a_connection_on_which_nothing_passes_is_given_up(codec: TinyCodec) -> None:
    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        asked = Asked(network.address, keepalive_seconds=0.3)
        async for event in asked.stream():
            asked.events.append(event)
            if len(asked.events) == 5:
                network.stall()
                asyncio.get_running_loop().call_later(2.0, network.go_on)
        await asked.transport.close()
    is_whole(asked)
    assert asked.errors


async def test_a_server_that_dies_and_comes_back(codec: TinyCodec) -> None:
    serving = Serving(FakeServer(codec, reply=counting))
    address = await serving.__aenter__()
    asked = Asked(address)
    async for event in asked.stream():
        asked.events.append(event)
        if len(asked.events) == 5:
            await serving.__aexit__()
            serving = Serving(FakeServer(codec, reply=counting), port=int(address.rpartition(":")[2]))
            asyncio.get_running_loop().call_later(0.3, asyncio.ensure_future, serving.__aenter__())
    await asked.transport.close()
    await serving.__aexit__()
    is_whole(asked)
    assert asked.errors


@pytest.mark.parametrize("seed", range(8))
async def test_altered_bytes_never_hang_or_crash(codec: TinyCodec, seed: int) -> None:
    """TCP's checksum and TLS guard against them; what is left without is an answer or an error, soon."""
    random = np.random.default_rng(seed)
    at = int(random.integers(0, 1500))

    def alter(position: int, chunk: bytes) -> bytes:
        if not position <= at < position + len(chunk):
            return chunk
        altered = bytearray(chunk)
        altered[at - position] ^= int(random.integers(1, 256))
        return bytes(altered)

    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        network.alter = alter
        asked = Asked(network.address, keepalive_seconds=0.5)
        try:
            await asked.read()
        except DelError:
            return
    assert len(asked.token_ids) <= TOKENS + 1


async def test_patience_ends(codec: TinyCodec) -> None:
    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        asked = Asked(network.address, Patience(0.5, 0.05, 0.1))
        events = asked.stream()
        asked.events = [await anext(events) for _ in range(5)]
        network.refusing = True
        network.reset()
        with pytest.raises(UnavailableError, match="no server answers"):
            asked.events += [event async for event in events]
        await asked.transport.close()
    assert len(asked.errors) >= 2
    assert asked.token_ids == list(range(len(asked.events)))


async def test_without_patience_the_first_error_is_raised(codec: TinyCodec) -> None:
    asked = Asked("127.0.0.1:1", Patience(0))
    with pytest.raises(UnavailableError, match="no server answers"):
        await asked.read()
    assert asked.errors == []


async def test_a_closed_client_does_not_connect_again(codec: TinyCodec) -> None:
    async with Serving(FakeServer(codec, reply=counting)) as there, BadNetwork(there) as network:
        asked = Asked(network.address)
        events = asked.stream()
        await anext(events)
        await asked.transport.close()
        with pytest.raises(UnavailableError, match="closed"):
            async for _ in events:
                pass
        assert network.connections == 1


def refusing(error: pb.QueryError, times: int) -> tuple[FakeServer, list[int]]:
    """A server that answers so many queries with an error, and then counts; and the queries that it got."""
    queries: list[int] = []

    async def reply(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        queries.append(query_id)
        if len(queries) <= times:
            yield pb.GenerateResponse(query_id=query_id, error=error)
            return
        async for response in counting(query_id, requests):
            yield response

    return FakeServer(None, reply=reply), queries


async def test_a_servers_hint_is_kept_to() -> None:
    server, queries = refusing(pb.QueryError(code=14, message="draining", retry_after_ms=300), 2)
    async with Serving(server) as there:
        asked = Asked(there)
        await asked.read()
    assert len(queries) == 3
    assert asked.waits == [0.3, 0.3]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (pb.QueryError(code=14, message="gone for good"), UnavailableError),
        (pb.QueryError(code=14, message="in a year", retry_after_ms=1 << 31), UnavailableError),
        (pb.QueryError(code=8, message="full", retry_after_ms=10), ExhaustedError),
        (pb.QueryError(code=3, message="payload"), InvalidValue),
        (pb.QueryError(code=13, message="broken", retry_after_ms=10), DelError),
    ],
)
async def test_no_other_error_is_tried_again(error: pb.QueryError, kind: type[DelError]) -> None:
    server, queries = refusing(error, 1)
    async with Serving(server) as there:
        with pytest.raises(kind, match=error.message):
            await Asked(there).read()
    assert len(queries) == 1


async def test_the_end_of_a_broken_character_comes_once() -> None:
    attempts: list[Query] = []

    async def send(query: Query) -> AsyncIterator[Event]:
        attempts.append(query)
        if not query.resume:
            yield TokenDelta((7,), "")
        yield TokenDelta((), "\ufffd")
        if len(attempts) < 3:
            raise UnavailableError("lost", 0.0)
        yield Finish("length", Usage(0, 0, 0, 0, 0, 0), Timings(0, 0, 0, 0, 0), 0)

    events = [event async for event in answer(send, QUERY, QUICK, lambda error, wait: None)]
    assert [event.text for event in events if isinstance(event, TokenDelta)] == ["", "\ufffd"]
    assert [query.resume for query in attempts] == [(), (7,), (7,)]


class TestPatience:
    def test_waits_double_within_their_bounds(self) -> None:
        patience = Patience(60, 0.25, 5.0)
        for failures in range(1, 2000, 7):
            longest = min(0.25 * 2.0 ** min(failures - 1, 100), 5.0)
            assert longest / 2 <= patience.wait(failures) <= longest
        assert len({patience.wait(3) for _ in range(20)}) > 1

    @pytest.mark.parametrize("values", [(-1, 1, 1), (float("nan"), 1, 1), (float("inf"), 1, 1), (1, 0, 1), (1, 2, 1)])
    def test_out_of_range(self, values: tuple[float, float, float]) -> None:
        with pytest.raises(InvalidValue):
            Patience(*values)
