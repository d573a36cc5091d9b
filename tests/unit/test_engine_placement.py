"""A model that accelerate has spread: some layers in memory, others on the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
from test_engine_parity import engine_of, llama, prompts, reference, tokens_of
from transformers import LlamaForCausalLM

from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling
from del_server.engine.recorded import recorder_of


async def test_layers_on_the_disk_give_the_same_answers_together(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = llama().eval()
    whole.save_pretrained(tmp_path / "model")
    places = {f"model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb", "layers.0")}
    places |= {"lm_head": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    spread = LlamaForCausalLM.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "layers")
    assert {parameter.device.type for parameter in spread.parameters()} == {"cpu", "meta"}
    assert recorder_of(spread) is None
    embed = TokenEmbedder(whole)
    async with engine_of(spread) as engine:
        generations = [engine.submit(embed(prompt), Sampling(20, ignore_eos=True)) for prompt in prompts(4)]
        answers = await asyncio.gather(*map(tokens_of, generations))
    assert answers == [reference(whole, prompt, 20) for prompt in prompts(4)]
