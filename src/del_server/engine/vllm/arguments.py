"""vLLM's own settings: passed through by name, except for those that follow from DEL's. Knows nothing of prompts."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from del_codec.errors import InvalidValue
from del_server.engine.base import MAX_LOGPROBS, Capacity

CHOOSER = "del_server.engine.vllm.choosing:Chooser"

# What follows from options of `del-server serve`: two ways to say one thing could contradict each other.
OPTIONS = {
    "model": "--model",
    "tokenizer": "--model",
    "dtype": "--dtype",
    "max_model_len": "--context",
    "max_num_seqs": "--max-concurrent",
    "kv_cache_memory_bytes": "--kv-tokens",
    "enable_lora": "the codecs",
    "max_lora_rank": "the codecs",
    "max_loras": "the codecs",
    "lora_target_modules": "the codecs",
}
# What the engine rests on.
FIXED: dict[str, Any] = {
    "enable_prompt_embeds": True,
    "skip_tokenizer_init": True,
    "trust_remote_code": False,
    "logits_processors": [CHOOSER],
    "logprobs_mode": "raw_logprobs",
    "max_logprobs": MAX_LOGPROBS,
    "generation_config": "vllm",
    # Chooser needs the tokens of the step before.
    "async_scheduling": False,
    "enable_log_requests": False,
}
DEFAULTS: dict[str, Any] = {"load_format": "safetensors", "disable_log_stats": True, "enable_prefix_caching": True}
# Compiling takes longer than it saves; and a soft prompt is shared by whole blocks only.
CPU_DEFAULTS: dict[str, Any] = {"enforce_eager": True, "block_size": 32}
CPU_KV_BYTES = 4 << 30
PICKLED = ("auto", "hf", "mistral", "npcache", "pt")
# Ranks that vLLM has kernels for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class Adapters:
    """How many LoRAs the codecs have, the largest rank among them, and the layers that they change."""

    count: int = 0
    rank: int = 0
    layers: frozenset[str] = frozenset()


def engine_args(
    model: str, capacity: Capacity, passed: Mapping[str, object], adapters: Adapters, kv_tokens: int = 0
) -> AsyncEngineArgs:
    """vLLM's settings for a model of this capacity; `passed` are an operator's own, kv_tokens 0 leaves it to vLLM.

    Raises InvalidValue for a setting that vLLM doesn't have, that DEL has an option for, or that the engine rests on.
    """
    chosen = {name.replace("-", "_"): value for name, value in passed.items()}
    _check(chosen)
    settings = {**DEFAULTS, **(CPU_DEFAULTS if current_platform.is_cpu() else {}), **chosen, **FIXED}
    settings |= {
        "model": model,
        "dtype": str(capacity.dtype).removeprefix("torch."),
        "max_model_len": capacity.context_tokens,
        "max_num_seqs": capacity.running,
        "kv_cache_memory_bytes": kv_bytes(capacity, kv_tokens, chosen),
    }
    if adapters.count:
        rank = next((rank for rank in RANKS if rank >= adapters.rank), adapters.rank)
        # On a CPU, vLLM gives a prompt without a LoRA that of the last place if one with a LoRA runs beside it: so the
        # last place stays empty. And with other layers than these it would have the embeddings' layer look for a LoRA,
        # which it can't where ids and embeddings are in one step.
        places = adapters.count + int(current_platform.is_cpu())
        settings |= {"enable_lora": True, "max_loras": places, "max_lora_rank": rank}
        settings["lora_target_modules"] = sorted(adapters.layers)
    try:
        return AsyncEngineArgs(**settings)
    except (TypeError, ValueError) as error:
        raise InvalidValue("engine-arg", dict(passed), f"vLLM refuses them: {error}") from None


def kv_bytes(capacity: Capacity, kv_tokens: int, chosen: Mapping[str, object]) -> int | None:
    """Memory of keys and values in each of vLLM's workers; None for what is left of a GPU's share.

    Without a bound, vLLM on a CPU would take nearly all of the machine's memory.
    """
    workers = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        size = chosen.get(name, 1)
        workers *= size if isinstance(size, int) else 1
    if kv_tokens:
        return kv_tokens * capacity.kv_token_bytes // workers
    if not current_platform.is_cpu():
        return None
    most = capacity.running * capacity.context_tokens * capacity.kv_token_bytes
    least = 2 * capacity.context_tokens * capacity.kv_token_bytes
    return max(least, min(most, CPU_KV_BYTES)) // workers


def launcher(settings: AsyncEngineArgs) -> Callable[[], AsyncLLM]:
    """Starts vLLM with these settings, in the running event loop."""
    return lambda: AsyncLLM.from_engine_args(settings)


def _check(chosen: Mapping[str, object]) -> None:
    known = [field.name for field in dataclasses.fields(AsyncEngineArgs) if not field.name.startswith("_")]
    for name, value in chosen.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "use a field of vLLM's AsyncEngineArgs"
            raise InvalidValue("engine-arg", name, f"vLLM has no such setting; {hint}")
        if name in OPTIONS:
            raise InvalidValue("engine-arg", name, f"it follows from {OPTIONS[name]}")
        if name in FIXED:
            raise InvalidValue("engine-arg", name, f"the engine needs {FIXED[name]!r}; leave it out")
        if name == "load_format" and value in PICKLED:
            raise InvalidValue("engine-arg", f"load_format={value}", "it can unpickle weights; use safetensors")
