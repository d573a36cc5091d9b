"""A codec's folder, and the codec as a server serves it.

Folder: config.json (shapes of the decoder), device.safetensors (the device's half), decoder.safetensors,
soft_prompt/ (a PEFT prompt-tuning adapter), lora/ (a PEFT LoRA adapter, where it was trained with one),
tokenizer.json, chat_template.jinja, README.md (its card), and tasks/NAME/ for each task: a soft prompt of its own
(tasks.py).
Knows nothing of engines or gRPC. Only safetensors are read; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from del_codec.errors import ArtifactError, InvalidValue, MismatchError
from del_codec.frame import PrivateSegment, Segment
from del_codec.projection import ContextDecoder, LinearDecoder, ProjectionConfig, build_decoder
from del_codec.shipped import CHAT_TEMPLATE_FILE, DEVICE_FILE, TOKENIZER_FILE
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable
from del_server import lora
from del_server.decoder import PromptDecoder
from del_server.soft_prompt import read_soft_prompt, write_soft_prompt
from del_server.tasks import ServedTask, load_tasks

CONFIG_FILE = "config.json"
DECODER_FILE = "decoder.safetensors"
SOFT_PROMPT_FOLDER = "soft_prompt"
REFERENCES_FILE = "references.safetensors"
LORA_FOLDER = "lora"
REFERENCES_FOLDER = "references"
_MAX_CONFIG_BYTES = 1 << 20

# A model and the folder of a LoRA to the name under which an engine has it; None where there is no such folder.
LoadAdapter = Callable[[Any, Path], str | None]


def model_sha256(model: Any) -> str:
    """SHA-256 of a model's input embeddings as bfloat16: the same whether it was loaded in float32 or bfloat16."""
    weight = model.get_input_embeddings().weight.detach()
    raw = weight.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


@torch.no_grad()
def input_embeddings(model: Any) -> Tensor:
    """What the model's layers read for each id, [V, D]: its embedding module's output, scaled where that scales."""
    module = model.get_input_embeddings()
    ids = torch.arange(module.weight.shape[0], device=module.weight.device)
    table: Tensor = module(ids)
    return table.clone()


@dataclass(frozen=True, slots=True, eq=False)
class ServedCodec:
    """A live codec: the device's half as bytes, its tasks by name, segments to embeddings, and the name of its LoRA in
    the model, if it has one."""

    table: LatentTable
    device_bytes: bytes
    tasks: Mapping[str, ServedTask]
    soft_prompt: Tensor
    decoder: PromptDecoder
    adapter: str | None = None

    @classmethod
    def load(cls, folder: Path, model: Any, load_adapter: LoadAdapter = lora.load_once) -> ServedCodec:
        """Read a codec's folder for a loaded model; load_adapter: what is done with its LoRA.

        Raises ArtifactError for a damaged or missing file, MismatchError for the codec of another model.
        """
        table = LatentTable.load(folder / DEVICE_FILE)
        spec = table.spec
        found = model_sha256(model)
        if spec.model_sha256 != found:
            raise MismatchError(
                f"codec {folder} was made for {spec.model} ({spec.model_sha256[:12]}…), but the model's embeddings "
                f"have SHA-256 {found[:12]}…; pass the codec that was trained for this model, or train one"
            )
        embeddings = input_embeddings(model)
        config = read_config(folder / CONFIG_FILE)
        shapes = ((spec.vocabulary, spec.embedding_width), spec.dim, spec.embedding_width)
        if shapes != (tuple(embeddings.shape), config.dim, config.embedding_width):
            raise ArtifactError(
                f"codec {folder} contradicts itself: its table is for {spec.vocabulary} embeddings of width "
                f"{spec.embedding_width} in {spec.dim} dimensions, its decoder for width {config.embedding_width} from "
                f"{config.dim} dimensions, and the model has {list(embeddings.shape)}; train it again"
            )
        network = read_decoder(config, folder / DECODER_FILE)
        soft = read_soft_prompt(folder / SOFT_PROMPT_FOLDER, spec.embedding_width).to(embeddings)
        tasks = load_tasks(folder, embeddings)
        decoder = PromptDecoder(table, network, embeddings)
        adapter = load_adapter(model, folder / LORA_FOLDER)
        return cls(table, (folder / DEVICE_FILE).read_bytes(), tasks, soft, decoder, adapter)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the device's half, 64 hex digits."""
        return self.table.fingerprint

    @property
    def soft_tokens(self) -> int:
        """Length of the soft prompt."""
        return len(self.soft_prompt)

    @property
    def longest_soft_tokens(self) -> int:
        """Length of the longest soft prompt, its own or a task's."""
        return max([self.soft_tokens, *(len(served.soft_prompt) for served in self.tasks.values())])

    def soft_prompt_of(self, task: str) -> Tensor:
        """The soft prompt [P, D] of a task that the codec has, or its own for ""."""
        return self.tasks[task].soft_prompt if task else self.soft_prompt

    def embed(self, segments: Sequence[Segment], task: str = "") -> Tensor:
        """Embeddings [P + T, D] of a prompt, with the soft prompt's P rows in front if a segment is private.

        Raises FrameError or InvalidValue for a segment that can't be read.
        """
        if not segments:
            raise InvalidValue("segments", segments, "a prompt has at least one token")
        decoded = self.decoder(segments)
        if not any(isinstance(segment, PrivateSegment) for segment in segments):
            return decoded
        return torch.cat([self.soft_prompt_of(task), decoded])


def save_codec(
    folder: Path,
    spec: CodecSpec,
    latents: npt.NDArray[np.int8],
    unigram_counts: npt.NDArray[np.uint32],
    config: ProjectionConfig,
    decoder: dict[str, Tensor],
    soft_prompt: Tensor,
    tokenizer: bytes,
    chat_template: str,
) -> None:
    """Write a codec's folder; weights of the decoder and the soft prompt as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DEVICE_FILE).write_bytes(LatentTable.to_bytes(spec, latents, unigram_counts))
    (folder / CONFIG_FILE).write_text(json.dumps({"projection": asdict(config)}, indent=2) + "\n")
    half = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in decoder.items()}
    safetensors.torch.save_file(half, folder / DECODER_FILE)
    write_soft_prompt(folder / SOFT_PROMPT_FOLDER, soft_prompt, spec.model)
    (folder / TOKENIZER_FILE).write_bytes(tokenizer)
    if chat_template:
        (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8", newline="")


def load_references(folder: Path) -> dict[str, Tensor]:
    """The soft prompts of a codec's `floor` (no prompt) and `ceiling` (clean prompt), float32. Raises ArtifactError."""
    path = folder / REFERENCES_FILE
    try:
        soft = safetensors.torch.load_file(path)
        return {name: soft[name].float() for name in ("floor", "ceiling")}
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} holds no floor and ceiling: {error}; train again") from None


def read_config(path: Path) -> ProjectionConfig:
    """The shapes of a codec's decoder. Raises ArtifactError."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ArtifactError(f"{path} has over {_MAX_CONFIG_BYTES} bytes: not a codec's configuration")
        return ProjectionConfig(**json.loads(path.read_text(encoding="utf-8"))["projection"])
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a codec's configuration: {error}") from None


def read_decoder(config: ProjectionConfig, path: Path) -> LinearDecoder | ContextDecoder:
    """The decoder of those shapes with a file's weights, float32; memory is taken for what the file holds alone.

    Raises ArtifactError.
    """
    try:
        with torch.device("meta"):
            network = build_decoder(config)
        tensors = safetensors.torch.load_file(path)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} does not hold the decoder that {CONFIG_FILE} names: {error}") from None
    return network
