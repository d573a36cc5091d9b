"""Input inference with a masked language model: each token is guessed from the text that was read around it.

The two models cut text differently, so they meet as text: what stands before and after the token is decoded, the masked
model fills the gap between spaces with its likeliest word, and the guess is the first token of that word, with a space
before it, for the served model. A gap inside of a word is thus guessed wrong; that is the attack's limit, not counted
for it.
"""

from __future__ import annotations

from typing import Any

import safetensors
import torch
from torch import Tensor

from del_codec.errors import ArtifactError

_BATCH = {"cuda": 512, "cpu": 32}


class MaskedLanguageModel:
    """A masked language model by Hugging Face id or folder, beside the tokenizer of the served model."""

    def __init__(self, name: str, tokenizer: Any, device: torch.device) -> None:
        """Load it. Raises ArtifactError for what is no masked language model with safetensors weights."""
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        try:
            self._own: Any = AutoTokenizer.from_pretrained(name)
            model = AutoModelForMaskedLM.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"masked language model {name} can't be loaded: {error}") from None
        if self._own.mask_token_id is None:
            raise ArtifactError(f"{name} has no mask token: name a masked language model, such as a BERT")
        self._model: Any = model.to(device).eval()
        self._tokenizer, self._device = tokenizer, device
        self._known: dict[int, int] = {}

    @torch.inference_mode()
    def guess(self, read: Tensor) -> Tensor:
        """Ids [B, T] of the served model, each guessed from the others of what was read [B, T]."""
        texts = [text for ids in read.tolist() for text in self._gaps(ids)]
        size = _BATCH.get(self._device.type, 32)
        words: list[int] = []
        for start in range(0, len(texts), size):
            batch = self._own(texts[start : start + size], padding=True, truncation=True, return_tensors="pt")
            batch = batch.to(self._device)
            gap = batch["input_ids"] == self._own.mask_token_id
            logits = self._model(**batch).logits
            # argmax finds the first: a text that was cut before its gap gets the word at its start, which is wrong.
            words += logits[torch.arange(len(gap), device=gap.device), gap.int().argmax(dim=1)].argmax(dim=-1).tolist()
        return torch.tensor([self._translate(word) for word in words], device=read.device).view(read.shape)

    def _gaps(self, ids: list[int]) -> list[str]:
        """The text with each token in turn replaced by the mask."""
        tokenizer, mask = self._tokenizer, self._own.mask_token
        before = tokenizer.batch_decode([ids[:place] for place in range(len(ids))])
        after = tokenizer.batch_decode([ids[place + 1 :] for place in range(len(ids))])
        return [f"{left} {mask} {right}" for left, right in zip(before, after, strict=True)]

    def _translate(self, word: int) -> int:
        """The served model's first id of a word of the masked model; -1 for a word without text."""
        if word not in self._known:
            text = self._own.decode([word]).replace("##", "").strip()
            ids = self._tokenizer(f" {text}", add_special_tokens=False).input_ids if text else []
            self._known[word] = ids[0] if ids else -1
        return self._known[word]
