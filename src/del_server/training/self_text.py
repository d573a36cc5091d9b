"""The model's own samples as training text: no corpus is needed, and what is learned is what the model would say.

Plain documents are sampled from an empty context; for a chat model also conversations: the user's words sampled after
the bare user prefix of its chat template, then the model's answer. Knows nothing of noise or codecs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from del_codec.errors import ArtifactError
from del_server.training.text import ChatSample, Ids

_SENTINEL = "\ue000user\ue001"


@dataclass(frozen=True, slots=True)
class SelfText:
    """documents: id sequences; turns: chat turns."""

    documents: list[Ids]
    turns: list[ChatSample]

    def save(self, path: Path) -> None:
        """Write as safetensors: flat ids and lengths."""
        parts = [*self.documents, *(part for t in self.turns for part in (t.before, t.words, t.after, t.answer))]
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        tensors = {
            "ids": flat.astype(np.int32),
            "lengths": np.array([len(part) for part in parts], dtype=np.int32),
            "documents": np.array([len(self.documents)], dtype=np.int32),
        }
        safetensors.numpy.save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> SelfText:
        """Read what `save` wrote. Raises ArtifactError for another file."""
        try:
            tensors = safetensors.numpy.load_file(path)
            bounds = np.cumsum(tensors["lengths"])[:-1]
            parts = np.split(tensors["ids"].astype(np.int64), bounds)[: len(tensors["lengths"])]
            count = int(tensors["documents"][0])
        except (OSError, KeyError, IndexError, ValueError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"{path} does not hold a model's own samples: {error}") from None
        if (len(parts) - count) % 4:
            raise ArtifactError(f"{path} does not hold whole chat turns")
        turns = [ChatSample(*parts[i : i + 4]) for i in range(count, len(parts), 4)]
        return cls(parts[:count], turns)


def template_parts(tokenizer: Any) -> tuple[Ids, Ids]:
    """The chat template's ids before and after a first user turn (the latter up to the answer's first token)."""
    before, after = _around_sentinels(tokenizer, [{"role": "user", "content": _SENTINEL}])
    return before, after


def template_between(tokenizer: Any) -> Ids:
    """The chat template's ids from the end of an answer to the user's next words; none without a template."""
    if not tokenizer.chat_template:
        return np.zeros(0, dtype=np.int64)
    roles = ("user", "assistant", "user")
    return _around_sentinels(tokenizer, [{"role": role, "content": _SENTINEL} for role in roles])[2]


def _around_sentinels(tokenizer: Any, messages: list[dict[str, str]]) -> list[Ids]:
    rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    texts = rendered.split(_SENTINEL)
    return [np.asarray(tokenizer(text, add_special_tokens=False).input_ids, dtype=np.int64) for text in texts]


def sample(
    model: Any,
    tokenizer: Any,
    count: int,
    *,
    seed: int,
    batch_size: int,
    length: int = 128,
    user_texts: Sequence[str] = (),
) -> SelfText:
    """About `count` samples: half documents and half turns for a chat model, else documents alone.

    user_texts: words of users to be answered as well, once each.
    """
    torch.manual_seed(seed)
    start = tokenizer.convert_tokens_to_ids(tokenizer.unk_token or tokenizer.bos_token or tokenizer.eos_token)
    empty = np.array([start], dtype=np.int64)
    chat = bool(tokenizer.chat_template)
    documents: list[Ids] = []
    for size in _batches(count // 2 if chat else count, batch_size):
        documents += [d for d in _continue(model, tokenizer, [empty] * size, length) if len(d) >= 32]
    if not chat:
        return SelfText(documents, [])
    before, after = template_parts(tokenizer)
    words: list[Ids] = []
    for size in _batches(count - count // 2, batch_size):
        words += [w for w in _continue(model, tokenizer, [before] * size, 80) if 4 <= len(w) < 80]
    given = [np.asarray(tokenizer(t, add_special_tokens=False).input_ids, dtype=np.int64) for t in user_texts]
    words += [w for w in given if 1 <= len(w) <= 80]
    words.sort(key=len)
    turns: list[ChatSample] = []
    for begin in range(0, len(words), batch_size):
        block = words[begin : begin + batch_size]
        prompts = [np.concatenate([before, w, after]) for w in block]
        answers = _continue(model, tokenizer, prompts, length)
        turns += [ChatSample(before, w, after, a) for w, a in zip(block, answers, strict=True) if len(a)]
    return SelfText(documents, turns)


def _batches(count: int, size: int) -> Iterator[int]:
    for begin in range(0, count, size):
        yield min(size, count - begin)


@torch.inference_mode()
def _continue(model: Any, tokenizer: Any, prompts: Sequence[Ids], length: int) -> list[Ids]:
    """Up to `length` sampled ids after each prompt, the end-of-sequence token included in none."""
    width = max(len(p) for p in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt)
        mask[row, width - len(prompt) :] = 1
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        do_sample=True,
        temperature=1.0,
        top_k=100,
        max_new_tokens=length,
        pad_token_id=pad,
    )
    rows = out[:, width:].cpu().numpy()
    eos = tokenizer.eos_token_id
    return [row[: int(np.argmax(row == eos))] if (row == eos).any() else row for row in rows]
