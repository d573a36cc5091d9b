"""A device at the far end of a cable: sends prompts in one way or another over gRPC and says when an answer began.

`python -m benchmarks.carried AUTHORITY ADDRESS...` answers each line of JSON on its input with one. Everything goes to
the same service: what is no private prompt rides in the messages' padding, which the server passes over, so that all
ways meet the same framing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

MU = 8.0
WIDTH = 576
PIECE = 1 << 19
TEXT = "the quick brown fox jumps over the lazy dog and is not seen again, "
# Of English text under the shipped codec's tokenizer.
CHARACTERS = 4
EMBEDDINGS = {"float32 embeddings": np.float32, "float16 embeddings": np.float16, "int8 embeddings": np.int8}
JSON, IDS, PLAIN = "JSON, base64 of float16", "token ids", "plain text"
UNDECODED = ", no decoder"
PEERS = (*EMBEDDINGS, JSON, IDS, PLAIN)
_TABLE = LatentTable.load(codec_folders()[0] / DEVICE_FILE)


def private(bits: int) -> str:
    """The name of DEL's way with so many bits."""
    return f"DEL, {bits} bit{'s' if bits > 1 else ''}"


def undecoded(bits: int) -> str:
    """The name of the same way to a server whose decoder takes next to no time."""
    return f"{private(bits)}{UNDECODED}"


def messages(way: str, tokens: int) -> Iterator[pb.GenerateRequest]:
    """A prompt of so many tokens in that way, and an answer of one."""
    options = pb.GenerationOptions(max_new_tokens=1, ignore_eos=True)
    if way.startswith("DEL"):
        yield from _private(int(way.split()[1]), tokens, options)
        return
    ids = [index % 40_000 + 100 for index in range(tokens if way == IDS else 1)]
    segment = pb.Segment(public=pb.PublicSegment(token_ids=ids))
    opening = pb.OpenQuery(prompt_tokens=len(ids), options=options, segments=[segment])
    yield pb.GenerateRequest(query_id=1, open=opening)
    body = _body(way, tokens)
    for start in range(0, len(body), PIECE):
        yield pb.GenerateRequest(query_id=1, padding=body[start : start + PIECE])
    yield pb.GenerateRequest(query_id=1, end=pb.EndPrompt())


def _private(bits: int, tokens: int, options: pb.GenerationOptions) -> Iterator[pb.GenerateRequest]:
    segment = encode(_TABLE, np.arange(tokens) + 100, NoiseSetting.from_mu(MU, _TABLE.spec.dim, bits))
    piece = pb.PrivateSegment(bits=bits, noise_scale=segment.setting.scale, tokens=tokens, payload=segment.payload)
    opening = pb.OpenQuery(
        codec_fingerprint=bytes.fromhex(_TABLE.fingerprint),
        prompt_tokens=tokens,
        options=options,
        segments=[pb.Segment(private=piece)],
        end=True,
    )
    yield pb.GenerateRequest(query_id=1, open=opening)


def _body(way: str, tokens: int) -> bytes:
    if way == IDS:
        return b""
    if way == PLAIN:
        return (TEXT * (CHARACTERS * tokens // len(TEXT) + 1))[: CHARACTERS * tokens].encode()
    embeddings = np.random.default_rng(0).standard_normal((tokens, WIDTH), dtype=np.float32)
    if way == JSON:
        text = base64.b64encode(embeddings.astype(np.float16).tobytes()).decode()
        return json.dumps({"shape": [tokens, WIDTH], "dtype": "float16", "embeddings": text}).encode()
    kind = EMBEDDINGS[way]
    if kind is np.int8:
        scale = np.abs(embeddings).max(axis=1, keepdims=True) / 127
        return np.rint(embeddings / scale).astype(np.int8).tobytes() + scale.astype(np.float16).tobytes()
    return embeddings.astype(kind).tobytes()


async def _first(stub: rpc.InferenceServiceStub, requests: list[pb.GenerateRequest]) -> float:
    """Seconds to the first token."""
    started, call = time.perf_counter(), stub.Generate(iter(requests))
    first = 0.0
    async for response in call:
        if response.HasField("error"):
            raise SystemExit(f"refused: {response.error.message}")
        first = first or time.perf_counter() - started
    return first


def _channel(address: str, authority: bytes) -> grpc.aio.Channel:
    """With a connection of its own, to "plain://HOST:PORT" or "tls://HOST:PORT"."""
    scheme, _, target = address.partition("://")
    # Probes for bandwidth are the device's to turn off; a bound on what is on its way would hold large prompts up.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    if scheme == "tls":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(authority), options=options)
    return grpc.aio.insecure_channel(target, options=options)


async def _ask(channel: grpc.aio.Channel, asked: dict[str, Any]) -> list[float]:
    """Seconds to each prompt's first token, all at once."""
    stub = rpc.InferenceServiceStub(channel)
    prompts = [list(messages(asked["way"], asked["tokens"])) for _ in range(asked["streams"])]
    return await asyncio.gather(*(_first(stub, prompt) for prompt in prompts))


async def _serve(authority: bytes, addresses: list[str]) -> None:
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_channel(address, authority)) for address in addresses]
        for channel in channels:
            await _ask(channel, {"way": private(1), "tokens": 1, "streams": 1})
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            door = asked["door"]
            if asked["fresh"]:
                async with _channel(addresses[door], authority) as channel:
                    firsts = await _ask(channel, asked)
            else:
                firsts = await _ask(channels[door], asked)
            print(json.dumps(firsts), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]).read_bytes(), sys.argv[2:]))
