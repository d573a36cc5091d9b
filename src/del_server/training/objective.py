"""The frozen LLM as teacher and as judge of prompts: what continuation each prompt would be given.

Knows nothing of noise, of codecs or of how the prompts were made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from del_server import lora
from del_server.codec import input_embeddings


class Judge:
    """Teacher-forced continuations through a frozen causal LLM."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.embeddings = input_embeddings(model)

    def logits(
        self, soft: Tensor | None, prompt: Tensor, present: Tensor, target: Tensor, adapter: str | None = None
    ) -> Tensor:
        """Logits [B, C, V] (float32) of target ids [B, C] after [soft prompt] + prompt embeddings [B, T, D].

        soft: [P, D] or None; present: [B, T] bool, False for what is not there: padding, or a hole in a prompt;
        adapter: the LoRA that the LLM has meanwhile.
        """
        batch = len(prompt)
        parts = [prompt, self.embeddings[target]]
        masks = [present, torch.ones_like(target, dtype=torch.bool)]
        if soft is not None:
            parts.insert(0, soft.expand(batch, -1, -1))
            masks.insert(0, torch.ones(batch, len(soft), dtype=torch.bool, device=prompt.device))
        embeds = torch.cat([part.to(self.embeddings.dtype) for part in parts], dim=1)
        mask = torch.cat(masks, dim=1)
        # Without padding the mask is left out, so that attention can take its causal fast path.
        padded = not bool(present.all())
        position = None
        if padded:
            # What is absent goes to the front: the first target must follow something that is there.
            order = mask.long().argsort(dim=1, stable=True)
            mask = mask.gather(1, order)
            embeds = embeds.gather(1, order.unsqueeze(-1).expand_as(embeds))
            position = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        lora.use(self.model, adapter)
        out = self.model(
            inputs_embeds=embeds,
            attention_mask=mask.long() if padded else None,
            position_ids=position,
            logits_to_keep=target.shape[1] + 1,
            use_cache=False,
        )
        logits: Tensor = out.logits[:, :-1].float()
        return logits

    @torch.no_grad()
    def teacher(self, prompt_ids: Tensor, present: Tensor, target: Tensor, last: int) -> Tensor:
        """Log-probabilities [B, last, V] that the plain model gives the last ids of clean prompts [B, T] and their
        continuations [B, C], each from the ids before it; last <= T - 1 + C. What follows padding is not defined.
        """
        whole = torch.cat([prompt_ids, target], dim=1)
        there = torch.cat([present, torch.ones_like(target, dtype=torch.bool)], dim=1)
        position = (there.long().cumsum(dim=1) - 1).clamp_min(0)
        padded = not bool(present.all())
        lora.use(self.model, None)
        out = self.model(
            inputs_embeds=self.embeddings[whole],
            attention_mask=there.long() if padded else None,
            position_ids=position if padded else None,
            logits_to_keep=last + 1,
            use_cache=False,
        )
        return F.log_softmax(out.logits[:, :-1].float(), dim=-1)


def nll(logits: Tensor, target: Tensor, scored: Tensor) -> Tensor:
    """Mean negative log-likelihood (nats a token) of target [B, C] where scored [B, C]."""
    return (token_nll(logits, target) * scored).sum() / scored.sum()


def token_nll(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood [B, C] in nats of target [B, C] under logits [B, C, V]."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)


def distillation(logits: Tensor, teacher: Tensor, scored: Tensor) -> Tensor:
    """Mean KL(teacher || student) in nats a token where scored; teacher holds log-probabilities [B, C, V]."""
    student = F.log_softmax(logits, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return (divergence * scored).sum() / scored.sum()
