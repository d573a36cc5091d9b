"""A model's embeddings, read without the model: what the whole model's module gives, whatever it does to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from del_codec.errors import ArtifactError
from del_server.codec import ServedCodec, input_embeddings, model_sha256
from del_server.embedding_model import TokenEmbedder, load_embedding_model
from del_server.engine.capacity import EngineConfig, capacity_of
from del_server.lora import LoraFolders

IDS = [0, 5, 258, 5]


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that multiplies its embeddings by sqrt(D), its weights in several files."""
    folder = tmp_path_factory.mktemp("scaling")
    shape = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    Gemma3ForCausalLM(Gemma3TextConfig(**shape, **heads)).save_pretrained(folder, max_shard_size="20kB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


@pytest.mark.parametrize("name", ["tiny_model", "scaling"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_stands_in_for_the_model(name: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    whole, alone = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), load_embedding_model(str(folder), dtype)
    assert model_sha256(alone) == model_sha256(whole)
    assert torch.equal(input_embeddings(alone), input_embeddings(whole))
    assert torch.equal(TokenEmbedder(alone)(IDS), TokenEmbedder(whole)(IDS))
    assert TokenEmbedder(alone)(IDS).dtype is dtype
    assert capacity_of(alone, EngineConfig()) == capacity_of(whole, EngineConfig())


def test_a_codec_is_served_with_it(tiny_model: Path, tiny_codec: Path) -> None:
    loras = LoraFolders()
    codec = ServedCodec.load(tiny_codec, load_embedding_model(str(tiny_model), torch.float32), loras.note)
    assert codec.soft_tokens == 4
    assert codec.adapter is None
    assert not loras.folders


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"elsewhere": torch.zeros(1)}, "no tensor"),
        ({"a.embed_tokens.weight": torch.zeros(1), "b.embed_tokens.weight": torch.zeros(1)}, "no tensor"),
        ({"model.embed_tokens.weight": torch.zeros(3, 32)}, r"shape \[3, 32\]"),
        ({"model.embed_tokens.weight": torch.zeros(259, 32, dtype=torch.int8)}, "int8"),
    ],
    ids=["none", "two", "other shape", "integers"],
)
def test_weights_without_its_embeddings_are_refused(
    tiny_model: Path, tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=message):
        load_embedding_model(str(tmp_path), torch.float32)


def test_a_folder_without_safetensors_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(ArtifactError, match="can't be read"):
        load_embedding_model(str(tmp_path), torch.float32)
