"""Soft prompts on disk: PEFT prompt-tuning adapters, safetensors alone. Knows nothing of codecs or tasks."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from del_codec.errors import ArtifactError

MAX_SOFT_TOKENS = 1024


def read_soft_prompt(folder: Path, width: int) -> Tensor:
    """[P, width] float32 of a PEFT prompt-tuning adapter. Raises ArtifactError that says what is wrong with it."""
    weights = folder / "adapter_model.safetensors"
    try:
        kind = json.loads((folder / "adapter_config.json").read_text()).get("peft_type")
        if kind != "PROMPT_TUNING":
            raise ArtifactError(f"{folder} holds a PEFT adapter of type {kind}: expected PROMPT_TUNING")
        soft = safetensors.torch.load_file(weights)["prompt_embeddings"].float()
    except OSError as error:
        others = sorted(path.name for path in folder.glob("adapter_model.*"))
        hint = f"; found {others}, but only safetensors are read" if others else ""
        raise ArtifactError(f"{weights} can't be read: {error.strerror}{hint}") from None
    except (ValueError, KeyError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{folder} is not a PEFT prompt-tuning adapter: {error}") from None
    if soft.ndim != 2 or soft.shape[1] != width or len(soft) > MAX_SOFT_TOKENS or not bool(soft.isfinite().all()):
        raise ArtifactError(f"{weights} holds a prompt of shape {list(soft.shape)}: expected finite [P, {width}]")
    return soft


def write_soft_prompt(folder: Path, soft_prompt: Tensor, model: str) -> None:
    """Write rows [P, D] for the model of that name, as float16."""
    from peft import PromptTuningConfig, TaskType

    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(soft_prompt),
        token_dim=soft_prompt.shape[1],
        num_transformer_submodules=1,
        base_model_name_or_path=model,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {"prompt_embeddings": soft_prompt.detach().to("cpu", torch.float16).contiguous()}
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
