"""Labels by their likelihood after prompts that are embeddings already, many prompts at once.

What the engine's scoring does for one prompt, on the model that training and evaluation hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from del_server.training.objective import Judge
from del_server.training.text import Ids


@torch.no_grad()
def label_scores(
    judge: Judge,
    soft: Tensor | None,
    prompt: Tensor,
    present: Tensor,
    candidates: Sequence[Ids],
    adapter: str | None = None,
) -> Tensor:
    """Log-likelihood [B, K] of each of K labels after [soft prompt [P, D]] + prompts [B, T, D], present [B, T].

    adapter: the LoRA that the model has meanwhile.
    """
    device = prompt.device
    firsts = torch.tensor([int(ids[0]) for ids in candidates], device=device)
    one = firsts[:1].expand(len(prompt), 1)  # which id stands there has no effect on the logits before it
    first = judge.logits(soft, prompt, present, one, adapter)[:, 0].log_softmax(dim=-1)
    scores = first[:, firsts]
    for index, ids in enumerate(candidates):
        if len(ids) > 1:
            target = torch.from_numpy(ids).to(device).expand(len(prompt), -1)
            logprobs = judge.logits(soft, prompt, present, target, adapter).log_softmax(dim=-1)
            rest = logprobs[:, 1:].gather(2, target[:, 1:].unsqueeze(2)).squeeze(2)
            scores[:, index] += rest.sum(dim=1)
    return scores
