"""Of a language model, what prompts are made with: its input embeddings and its configuration.

For engines that hold the weights elsewhere: one tensor is read, however large the model. Only safetensors are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from del_codec.errors import ArtifactError, first_line
from del_server.models import resolve

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


class EmbeddingModel:
    """Stands in for a causal language model where only its embeddings and its configuration are asked for."""

    def __init__(self, config: Any, generation_config: Any, embeddings: nn.Module) -> None:
        self.config, self.generation_config = config, generation_config
        self._embeddings = embeddings

    def get_input_embeddings(self) -> nn.Module:
        """Ids [T] to [T, D], as the model's layers read them (scaled where the model scales)."""
        return self._embeddings


class TokenEmbedder:
    """The model's own embeddings of token ids, as its layers read them (scaled where the model scales)."""

    def __init__(self, model: Any) -> None:
        self._module = model.get_input_embeddings()

    @torch.inference_mode()
    def __call__(self, token_ids: Sequence[int]) -> Tensor:
        """[T, D] of ids [T]."""
        embeddings: Tensor = self._module(torch.tensor(token_ids, device=self._module.weight.device))
        return embeddings


def load_embedding_model(model: str, dtype: torch.dtype, device: str = "cpu") -> EmbeddingModel:
    """The embeddings of a model by name, on a device.

    Raises ArtifactError if there is no such model, or it has no safetensors weights.
    """
    where = resolve(model)
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
        build: Any = transformers.AutoModelForCausalLM.from_config
        with init_empty_weights(include_buffers=False):
            skeleton = build(config, trust_remote_code=False)
        module = skeleton.get_input_embeddings()
        name = next(name for name, found in skeleton.named_modules() if found is module)
        weight = _read(where, f"{name}.weight")
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"the embeddings of model {model} can't be read: {first_line(error)}") from error
    if weight.shape != module.weight.shape or not weight.is_floating_point():
        raise ArtifactError(
            f"model {model} has embeddings of shape {list(weight.shape)} and type {weight.dtype}: expected "
            f"{list(module.weight.shape)} floating-point numbers"
        )
    module.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    return EmbeddingModel(config, _generation_config(where), module.to(device))


def _read(where: str, name: str) -> Tensor:
    """A tensor of a checkpoint, by its name or by the only name that ends in the same two words."""
    index = cached_file(where, INDEX_FILE, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return _tensor(where, WEIGHTS_FILE, name)
    files = json.loads(Path(index).read_text())["weight_map"]
    return _tensor(where, files[_matching(name, list(files))], name)


def _tensor(where: str, file: str, name: str) -> Tensor:
    path = cached_file(where, file)
    with safetensors.safe_open(str(path), "pt") as opened:
        found: Tensor = opened.get_tensor(_matching(name, list(opened.keys())))
    return found


def _matching(name: str, names: Sequence[str]) -> str:
    ending = "." + ".".join(name.split(".")[-2:])
    similar = [other for other in names if f".{other}".endswith(ending)]
    if name in names:
        return name
    if len(similar) != 1:
        raise KeyError(f"no tensor {name} among the weights")
    return similar[0]


def _generation_config(where: str) -> Any:
    try:
        return transformers.GenerationConfig.from_pretrained(where)
    except OSError:
        return None
