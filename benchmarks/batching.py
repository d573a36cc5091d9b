"""How a server under load compares with the model alone: SmolLM2, TOKENS private tokens in, as many out.

`del-server serve` in a process of its own, asked over gRPC with fresh bits; the model in this process, by transformers'
`generate` and by the bare engine. What is compared is measured in turns, and the median of the ratios is the result.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import torch
from torch import Tensor

from benchmarks import smollm2
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc
from del_server.engine.base import Prefix, Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine

TOKENS = 64
STREAMS = 16
STAGGER_SECONDS = 0.05
TURNS = 3
FIRST_TOKEN_TURNS = 15
MU = 11.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from the query to its first token, and how many came."""

    first: float
    tokens: int


class Bench:
    """A server's address, and the same model and codec in this process."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.model, self.codec = smollm2.model(), smollm2.codec()

    def segment(self, tokens: int = TOKENS) -> PrivateSegment:
        """So many private tokens at one bit, drawn afresh."""
        setting = NoiseSetting.from_mu(MU, self.codec.table.spec.dim, 1)
        return encode(self.codec.table, list(range(100, 100 + tokens)), setting)

    def embeddings(self) -> Tensor:
        """Those of such a prompt, soft prompt in front [P + TOKENS, D]."""
        return self.codec.embed([self.segment()])

    def request(self, prompt: int, tokens: int) -> pb.GenerateRequest:
        """A whole query: so many private tokens in, exactly so many out."""
        segment = self.segment(prompt)
        private = pb.PrivateSegment(
            bits=1, noise_scale=segment.setting.scale, tokens=segment.tokens, payload=segment.payload
        )
        opening = pb.OpenQuery(
            codec_fingerprint=bytes.fromhex(self.codec.fingerprint),
            prompt_tokens=prompt,
            options=pb.GenerationOptions(max_new_tokens=tokens, ignore_eos=True),
            segments=[pb.Segment(private=private)],
            end=True,
        )
        return pb.GenerateRequest(query_id=1, open=opening)

    async def ask(self, stub: Any, tokens: int = TOKENS) -> Answer:
        """One query on a stream of its own."""
        request = self.request(TOKENS, tokens)
        started, first, count = time.perf_counter(), 0.0, 0
        async for response in stub.Generate(iter([request])):
            if response.HasField("error"):
                raise SystemExit(f"the server refused: {response.error.message}")
            count += len(response.delta.token_ids)
            first = first or time.perf_counter() - started
        return Answer(first, count)

    async def served(self, streams: int, apart: float) -> float:
        """Tokens a second of so many streams, each begun so many seconds after the one before."""

        async def later(seconds: float) -> Answer:
            await asyncio.sleep(seconds)
            return await self.ask(stub)

        async with self.stub() as stub:
            started = time.perf_counter()
            answers = await asyncio.gather(*(later(index * apart) for index in range(streams)))
            return sum(answer.tokens for answer in answers) / (time.perf_counter() - started)

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        """The service's, warmed by a query."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = rpc.InferenceServiceStub(channel)
            await self.ask(stub, 2)
            yield stub

    def offline(self, streams: int, tokens: int = TOKENS) -> float:
        """Tokens a second of `generate` on the embeddings of so many prompts in one batch, so many tokens each."""
        batch = torch.stack([self.embeddings() for _ in range(streams)])
        started = time.perf_counter()
        with torch.inference_mode():
            made = self.model.generate(
                inputs_embeds=batch,
                attention_mask=torch.ones(batch.shape[:2], dtype=torch.long, device=batch.device),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            )
        return float(made.numel() / (time.perf_counter() - started))


@asynccontextmanager
async def bare_engine(bench: Bench) -> AsyncIterator[TransformersEngine]:
    """The engine alone, on the model in this process."""
    engine = TransformersEngine(bench.model, EngineConfig())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def first_token(engine: TransformersEngine, prompt: Tensor, prefix: Prefix | None) -> float:
    """Seconds from a prompt to its first token, nothing else in the engine."""
    started = time.perf_counter()
    async for event in engine.submit(prompt, Sampling(1, ignore_eos=True), prefix=prefix):
        if isinstance(event, Token):
            return time.perf_counter() - started
    raise SystemExit("the engine gave no token")


async def served_over_offline(bench: Bench) -> float:
    """Throughput of STREAMS streams at once through gRPC and codec over that of `generate` in one batch."""
    ratios = []
    for _ in range(TURNS):
        offline = bench.offline(STREAMS)
        ratios.append(await bench.served(STREAMS, 0.0) / offline)
    return statistics.median(ratios)


async def staggered_over_sequential(bench: Bench) -> float:
    """Throughput of STREAMS streams, one STAGGER_SECONDS after another, over that of one stream after another."""
    ratios = []
    for _ in range(TURNS):
        alone = await bench.served(1, 0.0)
        ratios.append(await bench.served(STREAMS, STAGGER_SECONDS) / alone)
    return statistics.median(ratios)


async def first_token_over_bare(bench: Bench) -> float:
    """Time to first token of one stream through gRPC and codec over that of the bare engine."""
    ratios = []
    async with bench.stub() as stub, bare_engine(bench) as engine:
        prefix = engine.prefix(bench.codec.soft_prompt)
        prompt = bench.embeddings()[bench.codec.soft_tokens :]
        await first_token(engine, prompt, prefix)
        for _ in range(FIRST_TOKEN_TURNS):
            bare = await first_token(engine, prompt, prefix)
            ratios.append((await bench.ask(stub, 1)).first / bare)
    return statistics.median(ratios)


async def soft_prompt_share(bench: Bench) -> float:
    """What TOKENS soft-prompt tokens more add to the engine's time to first token, as a share of it."""
    ratios = []
    async with bare_engine(bench) as engine:
        prompt = bench.embeddings()[bench.codec.soft_tokens :]
        prefix = engine.prefix(torch.cat([prompt, prompt])[:TOKENS].clone())
        await first_token(engine, prompt, prefix)
        for _ in range(FIRST_TOKEN_TURNS):
            without = await first_token(engine, prompt, None)
            ratios.append(await first_token(engine, prompt, prefix) / without)
    return statistics.median(ratios) - 1
