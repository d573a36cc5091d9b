"""A prompt as vLLM takes it, and one stream of steps from vLLM. Knows nothing of queues or readers."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm import SamplingParams
from vllm.inputs.engine import embeds_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from del_codec.errors import EngineError
from del_server.engine.base import Logprobs

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Request:
    """prompt: [T, D], checked. salt: what vLLM keeps of one salt it uses for no other. stepped: hears of each step."""

    prompt: Tensor
    lora: LoRARequest | None
    salt: str
    stepped: Callable[[], None]

    async def steps(self, llm: Any, params: SamplingParams) -> AsyncGenerator[list[tuple[int, Logprobs | None]]]:
        """The new tokens of each step. Leaving the iteration aborts the request.

        Raises EngineError if the model's logits were not finite, or vLLM gave up.
        """
        prompt = embeds_input(self.prompt, cache_salt=self.salt or None)
        outputs = llm.generate(prompt, params, f"del-{next(_numbers)}", lora_request=self.lora)
        async with aclosing(outputs):
            async for output in outputs:
                completion = output.outputs[0]
                if completion.finish_reason not in (None, "stop", "length"):
                    raise EngineError(f"vLLM ended the answer: {completion.finish_reason}")
                self.stepped()
                yield _tokens(completion.token_ids, completion.logprobs, params.logprobs or 0)


def params_of(
    max_tokens: int,
    stop_token_ids: frozenset[int] = frozenset(),
    logprobs: int | None = None,
    choice: dict[str, Any] | None = None,
) -> SamplingParams:
    """Greedy, or as `choice` has it (see choosing); ids in, ids out, each as soon as it is there."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        stop_token_ids=sorted(stop_token_ids),
        ignore_eos=True,
        logprobs=logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=choice,
    )


def _tokens(ids: Any, logprobs: Any, alternatives: int) -> list[tuple[int, Logprobs | None]]:
    if logprobs is None:
        return [(int(token), None) for token in ids]
    return [(int(token), _reported(int(token), at, alternatives)) for token, at in zip(ids, logprobs, strict=True)]


def _reported(token: int, at: Any, alternatives: int) -> Logprobs:
    """`at`: id to log-probability and rank, of the chosen token and the likeliest."""
    chosen = float(at[token].logprob)
    if not math.isfinite(chosen):
        raise EngineError("the model's logits are not finite")
    ranked = sorted(at.items(), key=lambda item: (item[1].rank, item[0]))[:alternatives]
    return Logprobs(chosen, tuple((int(other), float(value.logprob)) for other, value in ranked))
