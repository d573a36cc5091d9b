"""The client's side of the wire, against a recording server in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

import grpc
import numpy as np
import pytest
from client_fakes import DIM, FakeServer, Serving, TinyCodec, ends, finish, hello, segments_of
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from benchmarks.bad_network import BadNetwork
from del_client.query import Finish, GenerationOptions, Limits, Query, Shaping, TokenDelta
from del_client.transport import Transport
from del_client.transport.messages import requests, wire_size
from del_codec.errors import (
    AccessDenied,
    DelError,
    EngineError,
    ExhaustedError,
    InvalidValue,
    MismatchError,
    UnavailableError,
)
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

NO_LIMITS = Limits(0, 0, 0, 0, 0)
SETTING = NoiseSetting(3, 200_000)


def private(tokens: int, seed: int = 0) -> PrivateSegment:
    levels = np.random.default_rng(seed).integers(0, 8, (tokens, DIM)).astype(np.uint8)
    return PrivateSegment.from_levels(levels, SETTING)


def query(*segments: PrivateSegment | PublicSegment, **options: object) -> Query:
    return Query("ab" * 32, segments, GenerationOptions(**options))  # type: ignore[arg-type]


PROMPT = query(PublicSegment((1, 2)), private(5), PublicSegment((3,)), max_new_tokens=7, temperature=0.5, seed=3)


async def collect(
    transport: Transport, prompt: Query = PROMPT, limits: Limits = NO_LIMITS
) -> list[TokenDelta | Finish]:
    return [event async for event in transport.generate(prompt, limits)]


async def collect_from(events: AsyncIterator[TokenDelta | Finish]) -> list[TokenDelta | Finish]:
    return [event async for event in events]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


class TestMessages:
    def test_a_query_is_one_message_where_it_fits(self) -> None:
        (message,) = requests(9, PROMPT, 0)
        assert message.query_id == 9
        assert message.open.codec_fingerprint == b"\xab" * 32
        assert message.open.prompt_tokens == 8
        options = message.open.options
        assert (options.max_new_tokens, options.seed, options.top_p) == (7, 3, 0)
        assert [segment.WhichOneof("kind") for segment in message.open.segments] == ["public", "private", "public"]
        sent = message.open.segments[1].private
        assert (sent.bits, sent.noise_scale, sent.tokens, sent.payload) == (3, 200_000, 5, private(5).payload)
        assert message.open.end
        assert not message.open.HasField("shaping")

    def test_else_it_is_opened_given_its_segments_and_ended(self) -> None:
        first, *middle, last = requests(9, query(private(400), private(400)), 1000)
        assert first.HasField("open")
        assert not first.open.end
        assert {message.WhichOneof("event") for message in middle} == {"segments"}
        assert last.HasField("end")

    @pytest.mark.parametrize("tokens", [1, 5, 40, 1001])
    @pytest.mark.parametrize("bucket", [2, 64, 250])
    def test_padded_messages_have_sizes_of_the_bucket_below_the_limit(self, tokens: int, bucket: int) -> None:
        shaping = Shaping(interval_ms=50, bucket_bytes=bucket)
        messages = list(requests(300, replace(query(private(tokens)), shaping=shaping), 1000))
        assert {message.ByteSize() % bucket for message in messages} == {0}
        assert max(message.ByteSize() for message in messages) <= 1000
        assert messages[0].open.shaping == pb.Shaping(interval_ms=50, bucket_bytes=bucket)

    @pytest.mark.parametrize("limit", [150, 333, 1000])
    @pytest.mark.parametrize("tokens", [1, 7, 8, 9, 64, 1001])
    def test_long_segments_are_cut_between_tokens_below_the_limit(self, limit: int, tokens: int) -> None:
        whole = private(tokens)
        ids = tuple(range(1 << 20, (1 << 20) + tokens))
        messages = list(requests(1, query(PublicSegment(ids), whole), limit))
        assert max(message.ByteSize() for message in messages) <= limit
        pieces = segments_of(messages)
        assert tuple(token for piece in pieces for token in piece.public.token_ids) == ids
        parts = [piece.private for piece in pieces if piece.HasField("private")]
        received = [PrivateSegment(SETTING, part.tokens, part.payload).levels(DIM) for part in parts]
        assert np.array_equal(np.concatenate(received), whole.levels(DIM))

    def test_sampling_that_is_off_is_left_out(self) -> None:
        opening = next(requests(1, query(PublicSegment((1,))), 0)).open
        assert opening.options == pb.GenerationOptions()


class TestAnswers:
    async def test_an_answer_and_its_bytes(self, codec: TinyCodec) -> None:
        server = FakeServer(codec)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            *deltas, last = await collect(transport)
            await transport.close()
        assert deltas == [TokenDelta((7,), "hel"), TokenDelta((8,), "lo")]
        assert isinstance(last, Finish)
        assert last.reason == "stop"
        assert last.wire_bytes == last.usage.received_bytes == sum(wire_size(request) for request in server.requests())

    async def test_queries_of_one_stream_are_told_apart(self, codec: TinyCodec) -> None:
        async def slow_if_odd(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            if query_id % 2:
                await asyncio.sleep(0.05)
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text=str(query_id)))
            yield finish(query_id, received)

        server = FakeServer(codec, reply=slow_if_odd)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            answers = await asyncio.gather(*(collect(transport) for _ in range(8)))
            await transport.close()
        assert len(server.streams) == 1
        assert sorted(answer[0].text for answer in answers) == sorted(map(str, range(1, 9)))

    async def test_padding_and_strangers_are_ignored(self, codec: TinyCodec) -> None:
        async def noisy(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, padding=b"\0" * 100)
            yield pb.GenerateResponse(query_id=query_id + 100, delta=pb.TokenDelta(text="not yours"))
            async for response in hello(query_id, received):
                yield response

        async with Serving(FakeServer(codec, reply=noisy)) as address:
            transport = Transport(address, 5)
            assert len(await collect(transport)) == 3
            await transport.close()

    async def test_more_events_than_are_held_for_a_slow_reader(self, codec: TinyCodec) -> None:
        async def talkative(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            for _ in range(3000):
                yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[1], text="a"))
            yield finish(query_id, received)

        async with Serving(FakeServer(codec, reply=talkative)) as address:
            transport = Transport(address, 5)
            async with aclosing(transport.generate(PROMPT, NO_LIMITS)) as events:
                await anext(events)
                await asyncio.sleep(0.2)
                assert len([event async for event in events]) == 3000
            async with aclosing(transport.generate(PROMPT, NO_LIMITS)) as events:
                await anext(events)
                await asyncio.sleep(0.2)  # the reader now waits for room in an answer that is left
            assert len(await collect(transport)) == 3001
            unread = transport.generate(PROMPT, NO_LIMITS)
            await anext(unread)
            await asyncio.sleep(0.2)
            await transport.close()
            with pytest.raises(UnavailableError, match="closed"):
                await collect_from(unread)


class TestCancellation:
    async def endless(self, query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        for _ in range(10_000):
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text="a"))
            await asyncio.sleep(0.01)

    async def reply(self, query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        async for response in self.endless(query_id, received) if query_id == 1 else hello(query_id, received):
            yield response

    async def test_leaving_the_loop_cancels_the_query_and_no_other(self, codec: TinyCodec) -> None:
        server = FakeServer(codec, reply=self.reply)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            async for _ in transport.generate(PROMPT, NO_LIMITS):
                break
            assert len(await collect(transport)) == 3
            await transport.close()
        assert [request.WhichOneof("event") for request in server.requests()] == ["open", "cancel"]
        assert len(server.streams) == 1

    async def test_a_cancelled_task_cancels_its_query_and_no_other(self, codec: TinyCodec) -> None:
        server = FakeServer(codec, reply=self.reply)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            task = asyncio.create_task(collect(transport))
            await until(lambda: bool(server.streams) and len(server.requests()) == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(await collect(transport)) == 3
            await transport.close()
        assert server.requests()[-1].HasField("cancel")
        assert len(server.streams) == 1

    async def test_a_task_cancelled_while_it_sends_harms_no_other_query(self, codec: TinyCodec) -> None:
        server = FakeServer(codec, reading=asyncio.Event())
        large = query(*(private(2000, seed) for seed in range(1000)))
        async with Serving(server) as address:
            transport = Transport(address, 5)
            task = asyncio.create_task(collect(transport, large))
            await until(lambda: bool(server.streams))
            await asyncio.sleep(0.1)  # until the window of the stream, which nobody reads, is full
            task.cancel()
            assert server.reading
            server.reading.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(await collect(transport)) == 3
            await transport.close()
        assert len(server.streams) == 1
        assert server.requests(1)[-1].HasField("cancel")


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (grpc.StatusCode.INVALID_ARGUMENT, InvalidValue),
            (grpc.StatusCode.OUT_OF_RANGE, InvalidValue),
            (grpc.StatusCode.FAILED_PRECONDITION, MismatchError),
            (grpc.StatusCode.NOT_FOUND, MismatchError),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, ExhaustedError),
            (grpc.StatusCode.UNAVAILABLE, UnavailableError),
            (grpc.StatusCode.INTERNAL, EngineError),
            (grpc.StatusCode.UNAUTHENTICATED, AccessDenied),
            (grpc.StatusCode.PERMISSION_DENIED, AccessDenied),
            (grpc.StatusCode.ABORTED, DelError),
        ],
    )
    async def test_the_error_of_one_query(self, codec: TinyCodec, code: grpc.StatusCode, kind: type[DelError]) -> None:
        async def refuse(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            error = pb.QueryError(
                code=code.value[0],
                reason="WHY",
                message="payload is 3 bytes: send 4",
                field="payload",
                retry_after_ms=250,
            )
            yield pb.GenerateResponse(query_id=query_id, error=error)

        async with Serving(FakeServer(codec, reply=refuse)) as address:
            transport = Transport(address, 5)
            with pytest.raises(kind, match=r"^payload is 3 bytes: send 4$") as caught:
                await collect(transport)
            assert type(caught.value) is kind
            await transport.close()
        if isinstance(caught.value, InvalidValue):
            assert caught.value.field == "payload"
        if isinstance(caught.value, ExhaustedError):
            assert caught.value.retry_after == 0.25

    async def test_no_more_of_a_refused_prompt_is_sent(self, codec: TinyCodec) -> None:
        async def refuse(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=9, message="another codec"))

        server = FakeServer(codec, reply=refuse, refuse_early=True)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            with pytest.raises(MismatchError, match="another codec"):
                # Far more than fits into what HTTP/2 takes before the server reads.
                await collect(transport, query(*(private(2000, seed) for seed in range(500))), NO_LIMITS)
            await transport.close()
        assert not any(map(ends, server.requests()))

    async def test_a_status_with_details(self, codec: TinyCodec) -> None:
        async def refuse(context: grpc.aio.ServicerContext) -> None:
            details = [any_pb2.Any(), any_pb2.Any()]
            details[0].Pack(
                error_details_pb2.BadRequest(
                    field_violations=[error_details_pb2.BadRequest.FieldViolation(field="fingerprint")]
                )
            )
            details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)))
            status = status_pb2.Status(code=refuse_with.value[0], message="no", details=details)
            await context.abort_with_status(rpc_status.to_status(status))

        async with Serving(FakeServer(codec, before_info=refuse)) as address:
            transport = Transport(address, 5)
            refuse_with = grpc.StatusCode.INVALID_ARGUMENT
            with pytest.raises(InvalidValue, match=r"^no$") as bad:
                await transport.server_info()
            refuse_with = grpc.StatusCode.RESOURCE_EXHAUSTED
            with pytest.raises(ExhaustedError, match=r"^no$") as full:
                await transport.server_info()
            refuse_with = grpc.StatusCode.UNAVAILABLE
            with pytest.raises(UnavailableError, match=r"^no$"):
                await transport.server_info()
            await transport.close()
        assert bad.value.field == "fingerprint"
        assert full.value.retry_after == 2

    async def test_a_download_that_stalls_is_given_up(self, codec: TinyCodec) -> None:
        endless = FakeServer(codec, download=bytes(8 << 20))
        async with Serving(endless) as there, BadNetwork(there) as network:
            transport = Transport(network.address, 5, keepalive_seconds=0.1)
            chunks = transport.download(codec.fingerprint.hex())
            await anext(chunks)
            network.stall()
            with pytest.raises(UnavailableError, match=r"nothing of its codec for 0\.3 s"):
                async for _ in chunks:
                    pass
            await transport.close()

    async def test_no_server(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            transport = Transport(address, 5)
            with pytest.raises(UnavailableError, match=f"no server answers at {address}.*del-server serve"):
                await transport.server_info()
            with pytest.raises(UnavailableError, match=f"no server answers at {address}"):
                await collect(transport)
            await transport.close()

    async def test_a_server_that_never_answers(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            transport = Transport(f"127.0.0.1:{silent.getsockname()[1]}", connect_seconds=0.2)
            with pytest.raises(UnavailableError, match="no server answers"):
                await transport.server_info()
            await transport.close()

    async def test_a_server_that_goes_away_fails_its_queries_and_a_new_one_is_served(self, codec: TinyCodec) -> None:
        async def stall(query_id: int, received: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
            yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(text="a"))
            await asyncio.sleep(60)

        server = FakeServer(codec, reply=stall)
        serving = Serving(server)
        transport = Transport(await serving.__aenter__(), 5)
        answers = [asyncio.create_task(collect(transport)) for _ in range(2)]
        await until(lambda: bool(server.streams) and len(server.streams[-1]) == 2)
        await serving.__aexit__()
        for outcome in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(outcome, UnavailableError)
        with pytest.raises(UnavailableError):
            await collect(transport)
        await transport.close()

    async def test_a_stream_that_the_server_ends_is_opened_again(self, codec: TinyCodec) -> None:
        server = FakeServer(codec)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            await collect(transport)
            assert transport._stream is not None
            transport._stream._call.cancel()
            await transport._stream._reader
            assert len(await collect(transport)) == 3
            await transport.close()
        assert len(server.streams) == 2

    @pytest.mark.parametrize(
        "server", ["", "localhost", "localhost:", "a b:1", "h:0", "h:65536", "http://h:1", "::1:5"]
    )
    async def test_an_address_that_is_none(self, server: str) -> None:
        with pytest.raises(InvalidValue, match=r"server is .*HOST:PORT"):
            Transport(server, 5)


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "field"),
        [
            (Limits(0, 7, 0, 0, 0), "prompt tokens is 8"),
            (Limits(0, 0, 6, 0, 0), "max_new_tokens is 7"),
            (Limits(14, 0, 0, 0, 0), "tokens of prompt and answer is 15"),
            (Limits(0, 0, 0, 0, 2), "segments is 3"),
        ],
    )
    async def test_what_the_server_would_refuse_is_not_sent(self, codec: TinyCodec, limits: Limits, field: str) -> None:
        server = FakeServer(codec)
        async with Serving(server) as address:
            transport = Transport(address, 5)
            with pytest.raises(InvalidValue, match=field):
                await collect(transport, PROMPT, limits)
            await transport.close()
        assert server.streams == []


class TestOptions:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("max_new_tokens", -1),
            ("temperature", -0.1),
            ("temperature", float("nan")),
            ("temperature", float("inf")),
            ("top_p", 0.0),
            ("top_p", 1.1),
            ("top_p", float("nan")),
            ("top_k", -1),
            ("seed", -1),
            ("seed", 1 << 64),
        ],
    )
    def test_options_out_of_range(self, field: str, value: float) -> None:
        with pytest.raises(InvalidValue, match=f"{field} is"):
            GenerationOptions(**{field: value})  # type: ignore[arg-type]
