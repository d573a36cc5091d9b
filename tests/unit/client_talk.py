"""What tests of a client ask with, and how they read what a server got."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from client_fakes import FakeServer, TinyCodec, client_arguments, finish, segments_of

from del_client import AsyncClient
from del_codec.v1 import inference_pb2 as pb

END_OF_SEQUENCE = 1


def connect(address: str, codec: TinyCodec, folder: Path) -> AsyncClient:
    return AsyncClient(address, **client_arguments(codec, folder))


def sent(server: FakeServer, query_id: int = 1) -> list[pb.Segment]:
    return segments_of(server.requests(query_id))


def private(segments: Sequence[pb.Segment]) -> list[bytes]:
    return [segment.private.payload for segment in segments if segment.HasField("private")]


def public_text(client: AsyncClient, segments: Sequence[pb.Segment]) -> str:
    ids = [token for segment in segments for token in segment.public.token_ids]
    return client.reader.tokenizer.decode(ids, skip_special_tokens=False)


async def read(answer: Any) -> str:
    return "".join([delta.text async for delta in answer])


class Saying:
    """A server's replies: one word after the other, token by token, then an end-of-sequence token."""

    def __init__(self, client_or_codec: Any, *answers: str) -> None:
        self.tokenizer = client_or_codec.reader.tokenizer
        self.answers = list(answers)

    async def __call__(self, query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        text = self.answers.pop(0)
        for token in self.tokenizer.encode(text, add_special_tokens=False).ids:
            delta = pb.TokenDelta(token_ids=[token], text=self.tokenizer.decode([token]))
            yield pb.GenerateResponse(query_id=query_id, delta=delta)
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[END_OF_SEQUENCE]))
        yield finish(query_id, requests)


async def endless(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    for _ in range(500):
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[5], text="a"))
