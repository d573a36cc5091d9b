"""LoRA adapters on a language model: several at once by name, at most one of them applied at a time.

PEFT's adapters, through transformers' own integration: the model is changed in place and stays what it was while no
adapter is applied. Knows nothing of codecs, prompts or training.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from del_codec.errors import ArtifactError, InvalidValue

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_RANK = 256
ALPHA_PER_RANK = 2


def add_lora(model: Any, name: str, rank: int) -> list[nn.Parameter]:
    """A new adapter of PEFT's default layers for the model's kind, that changes nothing yet; its parameters.

    Raises InvalidValue for a rank out of range, or a kind of model that PEFT has no defaults for.
    """
    from peft import LoraConfig, TaskType

    if not 1 <= rank <= MAX_RANK:
        raise InvalidValue("lora", rank, f"use a rank from 1 to {MAX_RANK}")
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_PER_RANK * rank,
        task_type=TaskType.CAUSAL_LM,
        target_modules=_default_layers(model),
        base_model_name_or_path=None,
    )
    _inject(model, config, name)
    own = [p for path, p in model.named_parameters() if f".{name}." in path]
    for parameter in own:
        # The frozen weights may be in half precision; what learns is not.
        parameter.data = parameter.data.float()
    return own


def _inject(model: Any, config: Any, name: str) -> None:
    """Put an adapter into the model's layers and leave none in use."""
    with warnings.catch_warnings():
        # Several adapters are what is wanted here.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        model.add_adapter(config, adapter_name=name)
    use(model, None)


def _default_layers(model: Any) -> list[str]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    kind = str(model.config.model_type)
    if kind not in DEFAULTS:
        raise InvalidValue("lora", kind, "PEFT knows no default layers for this kind of model: train without --lora")
    return list(DEFAULTS[kind])


def use(model: Any, name: str | None) -> None:
    """From here on the model has the adapter of that name, or none. Whoever runs a model says so before each pass.

    The parameters of an adapter that is not in use don't require gradients, so stay in use until after backward().
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        if name is not None:
            raise InvalidValue("adapter", name, "this model has no adapters")
        return
    if name is None:
        model.disable_adapters()
    else:
        model.enable_adapters()
        model.set_adapter(name)


def names(model: Any) -> list[str]:
    """Of its adapters."""
    return list(getattr(model, "peft_config", ()))


def save_lora(model: Any, name: str, folder: Path) -> None:
    """Write one adapter as PEFT does: adapter_config.json and adapter_model.safetensors, in float16."""
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    model.peft_config[name].save_pretrained(str(folder))
    state = get_peft_model_state_dict(model, adapter_name=name)
    half = {key: tensor.detach().to("cpu", torch.float16).contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(half, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_lora(model: Any, name: str, folder: Path) -> None:
    """Add the adapter of a folder under a name. Raises ArtifactError for anything but a LoRA in safetensors."""
    from peft import LoraConfig, set_peft_model_state_dict

    try:
        data = json.loads((folder / CONFIG_FILE).read_text())
        if data.get("peft_type") != "LORA":
            raise ArtifactError(f"{folder} holds a PEFT adapter of type {data.get('peft_type')}: expected LORA")
        state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        config = LoraConfig.from_pretrained(str(folder))
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise ArtifactError(f"{folder / WEIGHTS_FILE} holds values that are not finite")
        _inject(model, config, name)
        outcome: Any = set_peft_model_state_dict(model, state, adapter_name=name)
        unread = outcome.unexpected_keys
        if unread:
            raise ArtifactError(f"{folder / WEIGHTS_FILE} holds weights of other layers: {unread[:3]}")
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{folder} is not a LoRA adapter of this model: {error}") from None


def load_once(model: Any, folder: Path) -> str | None:
    """The name under which the model has the LoRA of a folder, added if need be; None if there is no such folder.

    It is named by its content, so one model can be given many codecs, and one that was trained again. Raises
    ArtifactError.
    """
    name = _name_of(folder)
    if name is not None and name not in names(model):
        load_lora(model, name, folder)
    return name


class LoraFolders:
    """LoRAs that an engine reads by itself: their folders by the name that load_once would give, the largest rank, and
    the layers that they change, by the last words of their names."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.rank = 0
        self.layers: set[str] = set()

    def note(self, model: Any, folder: Path) -> str | None:
        """As load_once, but that the model is left alone. Raises ArtifactError."""
        del model
        name = _name_of(folder)
        if name is not None:
            self.folders[name] = folder.resolve()
            rank, layers = _rank_and_layers(folder)
            self.rank = max(self.rank, rank)
            self.layers |= layers
        return name


def _name_of(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder / WEIGHTS_FILE} can't be read: {error.strerror}") from None
    return f"lora_{hashlib.sha256(weights).hexdigest()[:16]}"


def _rank_and_layers(folder: Path) -> tuple[int, set[str]]:
    try:
        data = json.loads((folder / CONFIG_FILE).read_text())
        kind, rank, layers = (data.get(key) for key in ("peft_type", "r", "target_modules"))
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{folder / CONFIG_FILE} can't be read: {error}") from None
    if kind != "LORA" or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise ArtifactError(f"{folder} holds a PEFT adapter of type {kind} and rank {rank}: expected LORA")
    if not isinstance(layers, list) or not layers or not all(isinstance(layer, str) for layer in layers):
        raise ArtifactError(f"{folder / CONFIG_FILE} names no list of layers in target_modules")
    return rank, set(layers)
