"""LoRA adapters by name: applied where asked for, the plain model elsewhere, PEFT's files on disk."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from del_codec.errors import ArtifactError, InvalidValue
from del_server import lora
from del_server.codec import ServedCodec
from del_server.commands import train
from del_server.engine.base import Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.transformers import TransformersEngine

IDS = torch.arange(10).unsqueeze(0)


@pytest.fixture
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval().requires_grad_(False)


def logits(model: Any, name: str | None) -> torch.Tensor:
    lora.use(model, name)
    found: torch.Tensor = model(IDS).logits
    return found


def changed(model: Any, name: str) -> torch.Tensor:
    """An adapter that does something, and what the model says with it."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lora.add_lora(model, name, 4):
            parameter.normal_(std=0.2)
    return logits(model, name)


def test_a_new_adapter_changes_nothing_and_learns_while_in_use(model: Any) -> None:
    plain = model(IDS).logits
    parameters = lora.add_lora(model, "one", 4)
    assert torch.equal(logits(model, None), plain)
    assert torch.equal(logits(model, "one"), plain)
    logits(model, "one").sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)


def test_each_adapter_is_itself_and_none_is_the_plain_model(model: Any) -> None:
    plain = model(IDS).logits
    one = changed(model, "one")
    lora.add_lora(model, "two", 2)
    assert not torch.allclose(one, plain)
    assert torch.equal(logits(model, "two"), plain)
    assert torch.equal(logits(model, "one"), one)
    assert torch.equal(logits(model, None), plain)


def test_an_adapter_comes_back_from_its_folder_beside_others(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    one = changed(model, "one")
    lora.save_lora(model, "one", tmp_path / "one")
    other = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    plain = other(IDS).logits
    for name in ("a", "b"):
        lora.load_lora(other, name, tmp_path / "one")
    for name in ("a", "b"):
        assert torch.allclose(logits(other, name), one, atol=2e-2)
    assert torch.equal(logits(other, None), plain)


@pytest.mark.parametrize("rank", [0, -1, 257])
def test_a_rank_out_of_range_is_refused(model: Any, rank: int) -> None:
    with pytest.raises(InvalidValue, match=f"lora is {rank}"):
        lora.add_lora(model, "one", rank)


def test_an_adapter_that_is_not_there_is_refused(model: Any) -> None:
    with pytest.raises(InvalidValue, match="adapter is 'one'"):
        lora.use(model, "one")


def test_a_damaged_or_foreign_adapter_is_refused(model: Any, tmp_path: Path) -> None:
    changed(model, "one")
    lora.save_lora(model, "one", tmp_path)
    weights, config = tmp_path / lora.WEIGHTS_FILE, tmp_path / lora.CONFIG_FILE
    sound = safetensors.torch.load_file(weights)
    for number, broken in enumerate(
        (
            {name: tensor * float("nan") for name, tensor in sound.items()},
            {name: tensor[:1] for name, tensor in sound.items()},
            {f"other.{name}": tensor for name, tensor in sound.items()},
        )
    ):
        safetensors.torch.save_file(broken, weights)
        with pytest.raises(ArtifactError):
            lora.load_lora(model, f"broken{number}", tmp_path)
    weights.write_bytes(b"pickle")
    with pytest.raises(ArtifactError, match="is not a LoRA adapter"):
        lora.load_lora(model, "pickle", tmp_path)
    config.write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(ArtifactError, match="expected LORA"):
        lora.load_lora(model, "kind", tmp_path)


async def test_an_engine_gives_each_prompt_the_adapter_that_it_names(model: Any) -> None:
    changed(model, "one")
    engine = TransformersEngine(model, EngineConfig())
    prompt = model.get_input_embeddings()(IDS[0]).detach()
    sampling = Sampling(8, ignore_eos=True, logprobs=0)

    async def answer(adapter: str | None) -> list[tuple[int, float]]:
        events = [event async for event in engine.submit(prompt, sampling, adapter)]
        return [(event.token_id, event.logprobs.chosen) for event in events if isinstance(event, Token)]

    await engine.start()
    try:
        plain, adapted = await answer(None), await answer("one")
        assert plain != adapted
        beside = await asyncio.gather(answer("one"), answer(None), answer("one"))
        for found, expected in zip(beside, [adapted, plain, adapted], strict=True):
            assert [token for token, _ in found] == [token for token, _ in expected]
            assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4)
        scored = await engine.score(prompt, [[token for token, _ in adapted]], "one").result()
        assert scored.logprobs[0] == pytest.approx([logprob for _, logprob in adapted], abs=1e-4)
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    "config", ["", "[]", '{"peft_type": "LORA"}', '{"peft_type": "IA3", "r": 2}', '{"peft_type": "LORA", "r": 2}']
)
def test_a_folder_that_an_engine_could_not_read_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / lora.WEIGHTS_FILE).write_bytes(b"weights")
    (tmp_path / lora.CONFIG_FILE).write_text(config)
    with pytest.raises(ArtifactError):
        lora.LoraFolders().note(None, tmp_path)


def test_a_codec_trained_with_lora_is_served_with_it(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    text, out = tmp_path / "text.txt", tmp_path / "codec"
    text.write_text("ab" * 3000)
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = f"--model {tiny_model} --text {text} --out {out} --dim 8 --batch 4 --steps 6 --reference-steps 3 --lora 2"
    train.run(parser.parse_args(words.split()))
    assert json.loads((out / "lora" / "adapter_config.json").read_text())["r"] == 2
    references = [safetensors.torch.load_file(out / "references" / n / lora.WEIGHTS_FILE) for n in ("floor", "ceiling")]
    assert all(any(bool(tensor.any()) for name, tensor in r.items() if "lora_B" in name) for r in references)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    plain = model(IDS).logits
    codec = ServedCodec.load(out, model)
    assert codec.adapter is not None
    assert torch.equal(logits(model, None), plain)
    assert not torch.equal(logits(model, codec.adapter), plain)
    elsewhere = lora.LoraFolders()
    assert ServedCodec.load(out, model, elsewhere.note).adapter == codec.adapter
    assert (elsewhere.folders, elsewhere.rank) == ({codec.adapter: (out / "lora").resolve()}, 2)
    assert elsewhere.layers == {"q_proj", "v_proj"}
    shutil.rmtree(out / "lora")
    assert ServedCodec.load(out, model).adapter is None
