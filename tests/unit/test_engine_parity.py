"""The embedding path is the text path: greedy and fp32, token for token what `generate` gives, whatever runs beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Finish, Generation, Reason, Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.sampling import choose
from del_server.engine.transformers import TransformersEngine

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def gemma2() -> Any:
    """Scales its embeddings by sqrt(D); every other layer looks at the last eight tokens alone."""
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, sliding_window=8))


def gemma3() -> Any:
    """Scales its embeddings by sqrt(D); sliding windows and two kinds of rotary positions."""
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, sliding_window=8, sliding_window_pattern=2))


@pytest.fixture(scope="module", params=[llama, gemma2, gemma3], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    return request.param().eval()


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 259, (5 + 7 * i,), generator=generator).tolist() for i in range(count)]


def reference(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What `generate` gives on the plain model."""
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    return out[0, len(prompt) :].tolist()


@asynccontextmanager
async def engine_of(model: Any, **options: Any) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(model, EngineConfig(**options))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def tokens_of(generation: Generation) -> list[int]:
    return [event.token_id async for event in generation if isinstance(event, Token)]


async def test_alone(model: Any) -> None:
    async with engine_of(model) as engine:
        for prompt in prompts(3):
            answer = engine.submit(TokenEmbedder(model)(prompt), Sampling(20, ignore_eos=True))
            assert await tokens_of(answer) == reference(model, prompt, 20)


async def test_the_models_own_embeddings_fed_to_generate_are_what_the_engine_is_fed(model: Any) -> None:
    prompt = prompts(2)[1]
    embeddings = TokenEmbedder(model)(prompt)
    out = model.generate(inputs_embeds=embeddings[None].clone(), max_new_tokens=12, do_sample=False, eos_token_id=None)
    async with engine_of(model) as engine:
        answer = await tokens_of(engine.submit(embeddings, Sampling(12, ignore_eos=True)))
    assert answer == out[0].tolist() == reference(model, prompt, 12)


async def test_with_neighbours_that_come_go_and_are_cancelled(model: Any) -> None:
    embed = TokenEmbedder(model)

    async def answer(engine: TransformersEngine, index: int, prompt: list[int]) -> list[int]:
        for _ in range(index):
            await asyncio.sleep(0.002)
        return await tokens_of(engine.submit(embed(prompt), Sampling(20, ignore_eos=True)))

    async def leave_early(engine: TransformersEngine, prompt: list[int]) -> Reason:
        generation = engine.submit(embed(prompt), Sampling(200, ignore_eos=True))
        seen = 0
        async for event in generation:
            seen += 1
            if seen == 3:
                generation.cancel()
            if isinstance(event, Finish):
                return event.reason
        raise RuntimeError("no finish")

    chosen = prompts(5)
    async with engine_of(model, running=4) as engine:
        answers, reasons = await asyncio.gather(
            asyncio.gather(*(answer(engine, i, prompt) for i, prompt in enumerate(chosen))),
            asyncio.gather(*(leave_early(engine, prompt) for prompt in prompts(3))),
        )
        assert (engine.load().running, engine.load().waiting) == (0, 0)
    assert answers == [reference(model, prompt, 20) for prompt in chosen]
    assert reasons == [Reason.CANCELLED] * 3


@pytest.mark.parametrize("chunk", [1, 3, 8, 16])
async def test_with_the_prompt_in_chunks(model: Any, chunk: int) -> None:
    prompt = prompts(4)[3]
    async with engine_of(model, prefill_chunk=chunk) as engine:
        answer = engine.submit(TokenEmbedder(model)(prompt), Sampling(10, ignore_eos=True))
        assert await tokens_of(answer) == reference(model, prompt, 10)


async def test_each_token_is_drawn_at_its_own_position(model: Any) -> None:
    prompt, sampling = prompts(1)[0], Sampling(12, temperature=2.0, seed=4, ignore_eos=True)
    async with engine_of(model) as engine:
        answer = await tokens_of(engine.submit(TokenEmbedder(model)(prompt), sampling))
    for position, token in enumerate(answer):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer[:position]])).logits[0, -1].float()
        assert token == choose(logits, sampling, position)


async def test_a_resumed_answer_is_the_uninterrupted_one(model: Any) -> None:
    embed, prompt = TokenEmbedder(model), prompts(2)[1]
    options = {"temperature": 1.5, "top_p": 0.95, "seed": 11, "ignore_eos": True}
    async with engine_of(model) as engine:
        whole = await tokens_of(engine.submit(embed(prompt), Sampling(20, **options)))
        for cut in (1, 7, 19):
            rest = engine.submit(embed(prompt + whole[:cut]), Sampling(20, position=cut, **options))
            assert whole[:cut] + await tokens_of(rest) == whole


@pytest.mark.parametrize("chunk", [3, 512])
async def test_scores_are_those_of_a_plain_pass_over_prompt_and_candidate(
    model: Any, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("del_server.engine.scoring.GROUP_TOKENS", 24)
    prompt, candidates = prompts(4)[3], [[7], [9, 8, 7, 200], [9], *prompts(3), [7, 7], [9, 8, 7, 201]]
    async with engine_of(model, prefill_chunk=chunk) as engine:
        beside = engine.submit(TokenEmbedder(model)(prompts(2)[1]), Sampling(20, ignore_eos=True))
        scored = await engine.score(TokenEmbedder(model)(prompt), candidates).result()
        assert await tokens_of(beside) == reference(model, prompts(2)[1], 20)
    for ids, found in zip(candidates, scored.logprobs, strict=True):
        with torch.inference_mode():
            plain = model(torch.tensor([prompt + ids])).logits[0].float().log_softmax(-1)
        expected = plain[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert scored.prefill_seconds > 0
