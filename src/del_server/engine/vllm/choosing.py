"""Chooser: makes vLLM take the tokens that we chose. It runs in vLLM's worker, once a step, for the whole batch.

vLLM decodes every one of our requests greedily, and the chosen token is given the greatest logit there is. So answers
are drawn as the transformers engine draws them, whatever runs beside them and resumed ones too, which vLLM's own seeds
don't give; and a candidate's tokens can be forced one after another. The log-probabilities that vLLM reports are taken
before this, from the model itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from del_codec.errors import EngineError
from del_server.engine.base import Sampling
from del_server.engine.sampling import choose

# Of a request's extra_args: fields of a Sampling, or ids to force.
DRAWN, FORCED = "del_sampling", "del_forced"


def drawn(sampling: Sampling) -> dict[str, Any]:
    """extra_args of a request whose tokens are drawn."""
    return {DRAWN: dataclasses.asdict(sampling)}


def forced(token_ids: Sequence[int]) -> dict[str, Any]:
    """extra_args of a request whose answer is given."""
    return {FORCED: list(token_ids)}


# A request's next token from its logits [V]; None for vLLM's own choice, the likeliest.
Choice = Callable[[Tensor], int | None]


class Chooser(LogitsProcessor):  # type: ignore[misc]
    """See the module's docstring."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        del vllm_config, device, is_pin_memory  # vLLM hands them to every processor
        self._choices: dict[int, Choice] = {}

    def is_argmax_invariant(self) -> bool:
        """No: greedy decoding takes what is chosen here."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests through the batch's rows."""
        process_dict_updates(self._choices, batch_update, _choice_of)

    def apply(self, logits: Tensor) -> Tensor:
        """float32 logits [n, V], changed in place."""
        for row, choice in self._choices.items():
            token = choice(logits[row])
            if token is not None:
                logits[row, token] = torch.inf
        return logits


def _choice_of(params: SamplingParams, _: Any, answer: list[int]) -> Choice | None:
    """`answer` grows as the request does."""
    extra = params.extra_args or {}
    if DRAWN in extra:
        return _drawn(Sampling(**extra[DRAWN]), answer)
    if FORCED in extra:
        return _forced(extra[FORCED], answer)
    return None


def _drawn(sampling: Sampling, answer: Sequence[int]) -> Choice:
    def choice(logits: Tensor) -> int | None:
        try:
            return choose(logits, sampling, sampling.position + len(answer), [*sampling.before, *answer])
        except EngineError:  # an error here would end vLLM, for all
            return None

    return choice


def _forced(token_ids: Sequence[int], answer: Sequence[int]) -> Choice:
    def choice(_: Tensor) -> int | None:
        # vLLM may compute one step more than it takes.
        return token_ids[len(answer)] if len(answer) < len(token_ids) else None

    return choice
