"""Chooser: makes vLLM take the tokens that we chose. It runs in vLLM's worker, once a step, for the whole batch.

vLLM decodes every one of our requests greedily, and the chosen token is given the greatest logit there is. So answers
are drawn as the transformers engine draws them, whatever runs beside them and resumed ones too, which vLLM's own seeds
don't give; and a candidate's tokens can be forced one after another. The log-probabilities that vLLM reports are taken
before this, from the model itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from del_codec.errors import EngineError
from del_server.engine.base import Sampling
from del_server.engine.sampling import Draw, take

# Of a request's extra_args: fields of a Sampling, or ids to force.
DRAWN, FORCED = "del_sampling", "del_forced"


def drawn(sampling: Sampling) -> dict[str, Any]:
    """extra_args of a request whose tokens are drawn; vLLM itself reports the log-probabilities."""
    return {DRAWN: dataclasses.asdict(dataclasses.replace(sampling, logprobs=None))}


def forced(token_ids: Sequence[int]) -> dict[str, Any]:
    """extra_args of a request whose answer is given."""
    return {FORCED: list(token_ids)}


class Chooser(LogitsProcessor):  # type: ignore[misc]
    """See the module's docstring."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        del vllm_config, device, is_pin_memory  # vLLM hands them to every processor
        self._rows: dict[int, Rule] = {}

    def is_argmax_invariant(self) -> bool:
        """No: greedy decoding takes what is chosen here."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests through the batch's rows."""
        process_dict_updates(self._rows, batch_update, _rule_of)

    def apply(self, logits: Tensor) -> Tensor:
        """float32 logits [n, V], changed in place."""
        drawing = [(row, rule.draw()) for row, rule in self._rows.items() if rule.sampling is not None]
        if drawing:
            rows, draws = zip(*drawing, strict=True)
            for row, taken in zip(rows, take(logits[list(rows)], draws), strict=True):
                if not isinstance(taken, EngineError):  # raised here, it would end vLLM, for all
                    logits[row, taken[0]] = torch.inf
        for row, rule in self._rows.items():
            # vLLM may compute one step more than it takes.
            if len(rule.answer) < len(rule.forced):
                logits[row, rule.forced[len(rule.answer)]] = torch.inf
        return logits


@dataclass(frozen=True, slots=True)
class Rule:
    """How a request's tokens are chosen; `answer`, those so far, grows as the request does."""

    answer: Sequence[int]
    sampling: Sampling | None = None
    forced: Sequence[int] = ()

    def draw(self) -> Draw:
        """What its next token is drawn by."""
        if self.sampling is None:
            raise RuntimeError("only a request that samples draws")
        return Draw(self.sampling, self.sampling.position + len(self.answer), [*self.sampling.before, *self.answer])


def _rule_of(params: SamplingParams, _: Any, answer: list[int]) -> Rule | None:
    extra = params.extra_args or {}
    if DRAWN in extra:
        return Rule(answer, sampling=Sampling(**extra[DRAWN]))
    return Rule(answer, forced=extra[FORCED]) if FORCED in extra else None
