"""A device at the far end of a cable: sends prompts in one way or another over gRPC and says when an answer began.

A process that answers each line of JSON on its input with one. Everything goes to the same service: what is no private
prompt rides in the messages' padding, which the server passes over, so that all ways meet the same framing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator

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
PEERS = (*EMBEDDINGS, JSON, IDS, PLAIN)
_TABLE = LatentTable.load(codec_folders()[0] / DEVICE_FILE)


def private(bits: int) -> str:
    """The name of DEL's way with so many bits."""
    return f"DEL, {bits} bit{'s' if bits > 1 else ''}"


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


async def _serve(address: str) -> None:
    # Probes for bandwidth are the device's to turn off; a bound on what is on its way would hold large prompts up.
    async with grpc.aio.insecure_channel(address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
        stub = rpc.InferenceServiceStub(channel)
        await _first(stub, list(messages(private(1), 1)))
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            prompts = [list(messages(asked["way"], asked["tokens"])) for _ in range(asked["streams"])]
            print(json.dumps(await asyncio.gather(*(_first(stub, prompt) for prompt in prompts))), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
