"""Targets of `--engine vllm`, in vLLM's environment: SmolLM2, private tokens in, as many out, in float32.

One vLLM in this process's care answers both ways, in turns: asked directly (offline), and by the server, over gRPC from
a client in a process of its own. The median of the ratios is the result.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import batching
from benchmarks.target import Target
from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_server import app
from del_server.backend import Backend
from del_server.config import ServeConfig
from del_server.embedding_model import TokenEmbedder, load_embedding_model
from del_server.engine.base import Engine, Sampling, Token
from del_server.models import resolve

CONTEXT = 1024
FIRST_TOKEN_TURNS = 60
CONFIG = ServeConfig(engine="vllm", context_tokens=CONTEXT, max_concurrent=batching.STREAMS, port=0, dtype="float32")


@dataclass(frozen=True, slots=True)
class Served:
    """A backend whose engine is vLLM, and that vLLM."""

    backend: Backend
    llm: list[Any]

    def prompt(self) -> Tensor:
        """A fresh private prompt [T, D], without the soft prompt."""
        codec = self.backend.codecs[0]
        setting = NoiseSetting.from_mu(batching.MU, codec.table.spec.dim, 1)
        return codec.decoder([encode(codec.table, range(100, 100 + batching.TOKENS), setting)])


def backend() -> Served:
    """Not yet started."""
    from del_server.engine.vllm.arguments import Adapters, engine_args, launcher
    from del_server.engine.vllm.engine import VllmEngine

    made, started = app.load(CONFIG), []
    launch = launcher(engine_args(resolve(CONFIG.model), made.engine.capacity, {}, Adapters()))

    def keep() -> Any:
        started.append(launch())
        return started[0]

    embed = TokenEmbedder(load_embedding_model(CONFIG.model, torch.float32))
    return Served(replace(made, engine=VllmEngine(made.engine.capacity, keep, embed)), started)


async def offline(served: Served) -> float:
    """Tokens a second of vLLM itself, given a batch of embeddings."""
    from vllm import SamplingParams
    from vllm.inputs.engine import embeds_input
    from vllm.sampling_params import RequestOutputKind

    soft = served.backend.codecs[0].soft_prompt
    prompts = [torch.cat([soft, served.prompt()]) for _ in range(batching.STREAMS)]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=batching.TOKENS,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

    async def answer(prompt: Tensor, number: int) -> int:
        made = 0
        async for output in served.llm[0].generate(embeds_input(prompt), params, f"offline-{number}"):
            made += len(output.outputs[0].token_ids)
        return made

    started = time.perf_counter()
    made = await asyncio.gather(*(answer(prompt, number) for number, prompt in enumerate(prompts)))
    return sum(made) / (time.perf_counter() - started)


@functools.cache
def client(address: str) -> batching.Bench:
    """Of the client's process."""
    return batching.Bench(address)


def ask(address: str, streams: int) -> float:
    """In the client's process: tokens a second of so many streams at once."""
    return asyncio.run(client(address).served(streams, 0.0))


async def streams_over_offline() -> float:
    """Throughput of STREAMS streams through gRPC and codec over that of vLLM given their embeddings."""
    served, ratios = backend(), []
    spawn = multiprocessing.get_context("spawn")
    async with app.running(served.backend, CONFIG) as port:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            loop = asyncio.get_running_loop()
            asking = functools.partial(loop.run_in_executor, pool, ask, f"127.0.0.1:{port}", batching.STREAMS)
            await asyncio.gather(asking(), offline(served))  # warms both up
            for _ in range(batching.TURNS):
                alone = await offline(served)
                ratios.append(await asking() / alone)
    return statistics.median(ratios)


@asynccontextmanager
async def started() -> AsyncIterator[tuple[Served, Engine]]:
    """The engine alone."""
    served = backend()
    await served.backend.engine.start()
    try:
        yield served, served.backend.engine
    finally:
        await served.backend.engine.stop()


async def soft_prompt_share() -> float:
    """What TOKENS soft-prompt tokens more add to a warm caller's time to first token, as a share of it."""
    ratios = []
    async with started() as (served, engine):
        prefix = engine.prefix(served.prompt()[: batching.TOKENS].clone())

        async def first(with_prefix: bool) -> float:
            prompt = served.prompt()
            begun = time.perf_counter()
            answer = engine.submit(prompt, Sampling(1, ignore_eos=True), prefix=prefix if with_prefix else None)
            async for event in answer:
                if isinstance(event, Token):
                    return time.perf_counter() - begun
            raise SystemExit("the engine gave no token")

        await first(True)
        for _ in range(FIRST_TOKEN_TURNS):
            without = await first(False)
            ratios.append(await first(True) / without)
    return statistics.median(ratios) - 1


TARGETS = (
    [
        Target("vllm.16_streams_over_offline", 0.9, "at least", lambda: asyncio.run(streams_over_offline())),
        Target("vllm.first_token_soft_prompt_share", 0.05, "at most", lambda: asyncio.run(soft_prompt_share())),
    ]
    if importlib.util.find_spec("vllm")
    else []
)
