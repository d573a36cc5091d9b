"""Visits: what the devices of a soak do to a server, well or badly, each with an outcome that is checked.

Every answer is one of prompts whose tokens are known, so that a token that is lost, doubled or another query's is
found. Knows nothing of what the processes hold meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

import grpc

from benchmarks.bad_network import BadNetwork
from del_client import AsyncClient, Patience
from del_client.query import Event, Finish, GenerationOptions, Limits, Query, Question, TokenDelta, Traffic
from del_client.retrying import answer
from del_client.transport import Transport
from del_codec.encode import encode
from del_codec.errors import DelError, UnavailableError
from del_codec.frame import PublicSegment, Segment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1.inference_pb2_grpc import InferenceServiceStub

MU = 20
LONGEST = 24
PROMPTS = 16
LONGEST_PROMPT = 96
CONNECT_SECONDS, KEEPALIVE_SECONDS = 30.0, 20.0
NO_LIMITS = Limits(context_tokens=0, prompt_tokens=0, new_tokens=0, message_bytes=0, segments=0)
STUBBORN, TIMID = Patience(60, 0.05, 0.5), Patience(0)
# Of log-probabilities that are computed in other company.
TOLERANCE = 1e-3


class Wrong(Exception):
    """Tokens that are not those of the prompt's undisturbed answer."""


@dataclass(slots=True)
class Known:
    """A query, its answer of LONGEST tokens by a server with nothing else to do, and the scores of two candidates."""

    query: Query
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def of(self, tokens: int) -> Query:
        """The query, its answer shorter."""
        return replace(self.query, options=replace(self.query.options, max_new_tokens=tokens))

    @property
    def question(self) -> Question:
        """What is scored."""
        return Question(self.query.fingerprint, self.query.segments, ((5, 6), (7,)))

    def check(self, came: Sequence[int], asked: int | None = None) -> None:
        """Raise Wrong unless these begin its answer, or, where so many were asked for, are all of them."""
        if list(came) != self.tokens[: len(came) if asked is None else asked]:
            raise Wrong(f"{list(came)} in place of {self.tokens[:asked]}")


def known_prompts(table: LatentTable, draw: random.Random) -> list[Known]:
    """PROMPTS of all lengths: private and public, answers greedy and drawn, yet without their answers."""
    setting, found = NoiseSetting.from_mu(MU, table.spec.dim, 1), []
    for number in range(PROMPTS):
        ids = [draw.randrange(3, table.spec.vocabulary) for _ in range(draw.randrange(1, LONGEST_PROMPT))]
        segments: tuple[Segment, ...] = (PublicSegment(tuple(ids[:3])), encode(table, ids, setting))
        private = number % 2 == 0
        # Of few tokens: between those of a large vocabulary a draw falls to one or its neighbour as sums are rounded.
        sampling = {"temperature": 1.0, "top_k": 20, "seed": number} if number % 4 > 1 else {}
        options = GenerationOptions(max_new_tokens=LONGEST, **sampling)  # type: ignore[arg-type]
        found.append(Known(Query(table.fingerprint if private else "", segments[: 1 + private], options)))
    return found


class Visits:
    """Devices at one address. `begun` and `ended` count visits by kind, and by kind and outcome.

    clients share a ledger; sent_tokens: private ones of theirs whose bits left, dropped_tokens: those of queries that
    were cancelled before it was known whether they would.
    """

    def __init__(self, address: str, known: list[Known], clients: Sequence[AsyncClient], draw: random.Random) -> None:
        self._address, self._known, self._clients, self._draw = address, known, clients, draw
        self.begun: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.checked_tokens = self.sent_tokens = self.dropped_tokens = 0

    async def learn(self) -> None:
        """Ask every prompt alone, for the answers that all later ones are compared with."""
        async with contextlib.aclosing(self._transport(self._address)) as transport:
            for known in self._known:
                known.tokens = (await _all(transport.generate(known.query, NO_LIMITS)))[0]
                known.scores = [score.logprob for score in (await transport.score(known.question)).scores]

    async def one(self) -> None:
        """A visit of a kind that chance decides, and its outcome."""
        (kind,) = self._draw.choices(list(KINDS), [weight for weight, _, _ in KINDS.values()])
        _, visit, expected = KINDS[kind]
        self.begun[kind] += 1
        try:
            outcome = await visit(self)
        except (DelError, Wrong, OSError, grpc.RpcError, TimeoutError) as error:
            outcome, why = type(error).__name__, f"{error}"
        else:
            why = ""
        if outcome not in expected:
            print(f"astray: {kind}: {outcome}: {why}", file=sys.stderr, flush=True)
            outcome = f"astray: {outcome}"
        self.ended[kind, outcome] += 1

    @property
    def astray(self) -> int:
        """Visits that ended otherwise than they may, or not at all."""
        lost = self.begun.total() - self.ended.total()
        return lost + sum(count for (_, outcome), count in self.ended.items() if outcome.startswith("astray"))

    def _transport(self, address: str) -> _Closing:
        return _Closing(address, CONNECT_SECONDS, KEEPALIVE_SECONDS)

    def _chosen(self) -> tuple[Known, int]:
        return self._draw.choice(self._known), self._draw.randrange(1, LONGEST + 1)

    async def _read(self, known: Known, tokens: int, address: str, patience: Patience) -> str:
        """A whole answer, which is checked."""
        traffic = Traffic()
        async with aclosing(self._transport(address)) as transport:
            send = partial(transport.generate, limits=NO_LIMITS, traffic=traffic)
            came: list[int] = []
            try:
                came, finish = await _all(answer(send, known.of(tokens), patience, _unheard), came)
            finally:
                known.check(came)
                self.checked_tokens += len(came)
            known.check(came, tokens)
            if finish.usage.new_tokens != len(came):
                raise Wrong(f"{finish.usage.new_tokens} tokens counted, {len(came)} came")
        return "completed"

    async def answered(self) -> str:
        """A device as it should be."""
        return await self._read(*self._chosen(), self._address, STUBBORN)

    async def disturbed(self) -> str:
        """The same behind a network that cuts, resets, stalls or delays."""
        async with BadNetwork(self._address) as network:
            fault = self._draw.choice(["cut", "reset", "stall", "delay"])
            network.cut_after = [self._draw.randrange(1000) for _ in range(3 * (fault == "cut"))]
            network.delay = 0.01 * (fault == "delay")
            harm = asyncio.create_task(self._harm(network, fault))
            try:
                return await self._read(*self._chosen(), network.address, STUBBORN)
            finally:
                harm.cancel()

    async def vanished(self) -> str:
        """A device whose connection breaks for good, whatever the server is at."""
        async with BadNetwork(self._address) as network:
            harm = asyncio.create_task(self._harm(network, "reset", 1.0))
            try:
                return await self._read(*self._chosen(), network.address, TIMID)
            finally:
                harm.cancel()

    async def _harm(self, network: BadNetwork, fault: str, within: float = 0.5) -> None:
        await asyncio.sleep(self._draw.uniform(0, within))
        if fault == "reset":
            network.reset()
        if fault == "stall":
            network.stall()
            await asyncio.sleep(0.5)
            network.go_on()

    async def left(self) -> str:
        """An answer that its reader leaves."""
        known, tokens = self._chosen()
        came: list[int] = []
        async with (
            aclosing(self._transport(self._address)) as transport,
            aclosing(transport.generate(known.of(LONGEST), NO_LIMITS)) as events,
        ):
            async for event in events:
                came += event.token_ids if isinstance(event, TokenDelta) else ()
                if len(came) >= tokens:
                    break
        known.check(came)
        self.checked_tokens += len(came)
        return "left"

    async def scored(self) -> str:
        """A question after a prompt."""
        known = self._draw.choice(self._known)
        async with aclosing(self._transport(self._address)) as transport:
            found = await transport.score(known.question)
        for score, expected in zip(found.scores, known.scores, strict=True):
            if abs(score.logprob - expected) > TOLERANCE:
                raise Wrong(f"a log-probability of {score.logprob} in place of {expected}")
        return "scored"

    async def asked(self) -> str:
        """A client with a ledger: a fresh release, charged, and the same bits again, which have the same answer."""
        client, tokens = self._draw.choice(self._clients), self._draw.randrange(1, LONGEST + 1)
        first = client.complete(f"question {self._draw.random()}", mu=MU, max_new_tokens=tokens)
        ids = [token async for delta in first for token in delta.token_ids]
        self.sent_tokens += first.prepared.private_tokens
        again = client.send(first.prepared, max_new_tokens=tokens)
        if ids != [token async for delta in again for token in delta.token_ids]:
            raise Wrong("the same bits had another answer")
        self.checked_tokens += len(ids)
        return "completed"

    async def dropped(self) -> str:
        """A client's query that is cancelled at once: charged or not, sent or not."""
        client, text = self._draw.choice(self._clients), f"question {self._draw.random()}"
        deltas = aiter(client.complete(text, mu=MU, max_new_tokens=LONGEST))
        self.dropped_tokens += client.preview(text, mu=MU).private_tokens
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._draw.uniform(0, 0.05)):
                async for _ in deltas:
                    pass
        await deltas.aclose()
        return "dropped"

    async def refused(self) -> str:
        """A query that is none."""
        segments, expected = self._draw.choice(BAD)
        opening = pb.OpenQuery(prompt_tokens=2, segments=segments, end=True)
        async with grpc.aio.insecure_channel(self._address, OWN_CONNECTION) as channel:
            stub = InferenceServiceStub(channel)
            found = [response async for response in stub.Generate(iter([pb.GenerateRequest(query_id=1, open=opening)]))]
        return "refused" if [response.error.reason for response in found] == [expected] else str(found)

    async def unfinished(self) -> str:
        """A prompt that is begun and not ended, whose call breaks off."""
        async with grpc.aio.insecure_channel(self._address, OWN_CONNECTION) as channel:
            call = InferenceServiceStub(channel).Generate()
            await call.write(pb.GenerateRequest(query_id=1, open=pb.OpenQuery(prompt_tokens=9)))
            await asyncio.sleep(self._draw.uniform(0, 1))
            call.cancel()
        return "broken off"

    async def unread(self) -> str:
        """An answer with much in it that nobody reads, until the device is gone."""
        known = self._draw.choice(self._known)
        query = replace(known.query, options=replace(known.query.options, logprobs=20, max_new_tokens=LONGEST))
        async with aclosing(self._transport(self._address)) as transport:
            events = transport.generate(query, NO_LIMITS)
            await anext(events)
            await asyncio.sleep(self._draw.uniform(0, 1))
            await events.aclose()
        return "left"

    async def silent(self) -> str:
        """A connection that says nothing, or half of a greeting."""
        host, _, port = self._address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n"[: self._draw.randrange(16)])
        await asyncio.sleep(self._draw.uniform(0, 2))
        writer.close()
        return "closed"

    async def downloaded(self) -> str:
        """The codec, all of it or until the device is gone."""
        async with aclosing(self._transport(self._address)) as transport:
            (offer, *_) = (await transport.server_info()).codecs
            size = 0
            async with aclosing(transport.download(offer.fingerprint)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    if self._draw.random() < 0.05:
                        return "left"
        return "whole" if size == offer.size else f"{size} of {offer.size} bytes"


class _Closing(Transport):
    """A transport for aclosing."""

    async def aclose(self) -> None:
        """Close it."""
        await self.close()


Kind = tuple[float, Callable[[Visits], Awaitable[str]], frozenset[str]]


def _kind(weight: float, visit: Callable[[Visits], Awaitable[str]], *outcomes: str) -> Kind:
    return weight, visit, frozenset(outcomes)


# By name: how often, what, and how it may end.
KINDS: dict[str, Kind] = {
    "answered": _kind(6, Visits.answered, "completed"),
    "disturbed": _kind(4, Visits.disturbed, "completed"),
    "vanished": _kind(3, Visits.vanished, "completed", UnavailableError.__name__),
    "left": _kind(4, Visits.left, "left"),
    "scored": _kind(1, Visits.scored, "scored"),
    "asked": _kind(2, Visits.asked, "completed"),
    "dropped": _kind(2, Visits.dropped, "dropped"),
    "refused": _kind(4, Visits.refused, "refused"),
    "unfinished": _kind(2, Visits.unfinished, "broken off"),
    "unread": _kind(2, Visits.unread, "left"),
    "silent": _kind(4, Visits.silent, "closed"),
    "downloaded": _kind(0.5, Visits.downloaded, "whole", "left"),
}
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_BROKEN = pb.PrivateSegment(bits=1, noise_scale=200_000, tokens=2, payload=b"\0")
BAD = [
    ([pb.Segment(public=pb.PublicSegment(token_ids=[5, 2**32 - 1]))], "VALUE_INVALID"),
    ([pb.Segment(public=pb.PublicSegment(token_ids=[5]))], "VALUE_INVALID"),
    ([pb.Segment()], "FRAME_INVALID"),
    ([pb.Segment(private=_BROKEN)], "CODEC_UNKNOWN"),
]


async def _all(events: AsyncGenerator[Event], came: list[int] | None = None) -> tuple[list[int], Finish]:
    """The tokens of an answer, which are in `came` even where it breaks off, and its finish."""
    came = [] if came is None else came
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                return came, event
            came += event.token_ids
    raise Wrong("an answer without an end")


def _unheard(error: UnavailableError, wait: float) -> None:
    """Nobody asked to be told."""
