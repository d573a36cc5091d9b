"""One model over several cards: layer by layer with accelerate, and by tensor parallelism with transformers.

Compared with the same weights on one card: the time of a step, memory, and greedy answers in float32.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from accelerate.utils import get_balanced_memory, set_module_tensor_to_device
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.steps import RECORDED, SHAPES, generated, model_of, staggered, step_seconds
from del_server.engine.probing import shared_layers
from del_server.engine.recorded import recorder_of

PROMPT, TOKENS = 64, 32
COMPARED = [[(7 * place + 31 * length) % 40_000 for place in range(length)] for length in (5, 64, 33)]
TENSOR_PARALLEL_SECONDS = 150


def spread_section(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answers at a small depth, then memory and step times of the whole."""
    found: dict[str, Any] = {"answers": _answers(arguments.large, arguments.shallow, arguments.device)}
    print(json.dumps(found), flush=True)
    on_gpus = arguments.device != "cpu"
    dtype = torch.bfloat16 if on_gpus else torch.float32
    model = spread_model(arguments.large, arguments.layers, dtype, on_gpus)
    found["places"] = _places(model)
    found["memory_bytes"] = [torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count())]
    found["rows_share_a_pass"] = shared_layers(model) is not None
    found["recorded"] = recorder_of(model) is not None
    found["two_cards_seconds"] = _steps(model, arguments.batch)
    print(json.dumps(found), flush=True)
    del model
    if on_gpus:
        torch.cuda.empty_cache()
    device = torch.device("cuda:0" if on_gpus else "cpu")
    model = model_of(arguments.large, dtype, device, arguments.layers)
    found["one_card_seconds"] = _steps(model, arguments.batch)
    if recorder_of(model) is not None:
        found["one_card_recorded_seconds"] = _steps(model, arguments.batch, recorded=True)
    return found


def _steps(model: Any, batches: list[int], *, recorded: bool = False) -> dict[int, float]:
    record = recorder_of(model) if recorded else None
    return {batch: statistics.median(step_seconds(model, batch, PROMPT, TOKENS, record)[0]) for batch in batches}


def _answers(shape: str, layers: int, device: str) -> dict[str, Any]:
    """Greedy answers in float32 of the engine with a spread model beside `generate`'s on one card."""
    on_gpus = device != "cpu"
    whole = model_of(shape, torch.float32, torch.device("cuda:0" if on_gpus else "cpu"), layers)
    apart = _dispatched(copy.deepcopy(whole), _map(whole, torch.float32, on_gpus))
    expected = [generated(whole, prompt) for prompt in COMPARED]
    engine = asyncio.run(staggered(apart, COMPARED, RECORDED))
    alone = [generated(apart, prompt) for prompt in COMPARED]
    return {
        "layers": layers,
        "places": _places(apart),
        "engine_identical": engine == expected,
        "generate_identical": alone == expected,
        "tokens": sum(map(len, expected)),
    }


def spread_model(shape: str, layers: int, dtype: torch.dtype, on_gpus: bool) -> Any:
    """Random weights, made where they belong: nothing of it passes through this machine's memory or disk."""
    config = LlamaConfig(**SHAPES[shape].to_dict())
    config.num_hidden_layers = layers or config.num_hidden_layers
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init_empty_weights(include_buffers=False):
            model: Any = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    places = _map(model, dtype, on_gpus)
    for name, parameter in list(model.named_parameters()):
        place = next(places[prefix] for prefix in _prefixes(name) if prefix in places)
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
        value = torch.ones(parameter.shape, dtype=dtype, device=device)
        if parameter.ndim > 1:
            value.normal_(std=0.02)
        set_module_tensor_to_device(model, name, device, value=value, dtype=dtype)
    model.tie_weights()
    return _dispatched(model, places)


def _map(model: Any, dtype: torch.dtype, on_gpus: bool) -> dict[str, Any]:
    """What device_map="balanced" gives; without GPUs, all on the CPU."""
    if not on_gpus:
        return {"": "cpu"}
    kept = list(model._no_split_modules)
    most = get_balanced_memory(model, dtype=dtype, no_split_module_classes=kept)
    return dict(infer_auto_device_map(model, max_memory=most, dtype=dtype, no_split_module_classes=kept))


def _dispatched(model: Any, places: dict[str, Any]) -> Any:
    return dispatch_model(model, device_map=places, skip_keys=model._skip_keys_device_placement)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)]


def _places(model: Any) -> dict[str, int]:
    """Parameters on each device."""
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        counts[str(parameter.device)] = counts.get(str(parameter.device), 0) + parameter.numel()
    return counts


def tensor_parallel_section(arguments: argparse.Namespace) -> dict[str, Any]:
    """A saved model of small depth by two processes, each with half of every layer, and by one."""
    with tempfile.TemporaryDirectory() as folder:
        model_of(arguments.large, torch.bfloat16, torch.device("cpu"), arguments.shallow).save_pretrained(folder)
        two, one = (_program(folder, processes, arguments) for processes in (2, 1))
    return {
        "layers": arguments.shallow,
        "answers_identical": two["answers"] == one["answers"],
        "answers_that_differ": sum(a != b for a, b in zip(two["answers"], one["answers"], strict=True)),
        "split": two["split"],
        "two_seconds": two["seconds"],
        "one_seconds": one["seconds"],
    }


def _program(folder: str, processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """This file's program under torchrun, its environment and so NCCL's settings kept."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "benchmarks.spread", folder, arguments.device, *map(str, arguments.batch)]
    done = subprocess.run(
        command, env=dict(os.environ), stdout=subprocess.PIPE, text=True, timeout=TENSOR_PARALLEL_SECONDS, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"answers"'))
    found: dict[str, Any] = json.loads(line)
    return found


def main() -> None:
    """One rank: FOLDER DEVICE BATCH...; rank 0 prints what came of it."""
    folder, device, *batches = sys.argv[1:]
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = torch.device("cpu" if device == "cpu" else f"cuda:{rank}")
    if place.type == "cuda":
        torch.cuda.set_device(place)

    def load(dtype: torch.dtype) -> Any:
        where: dict[str, Any] = {"tp_plan": "auto"} if world > 1 else {"device_map": str(place)}
        return LlamaForCausalLM.from_pretrained(Path(folder), dtype=dtype, **where).eval()

    model = load(torch.float32)
    answers = [generated(model, prompt) for prompt in COMPARED]
    down = model.model.layers[0].mlp.down_proj.weight
    split = list(getattr(down, "to_local", lambda: down)().shape)
    del model
    model = load(torch.bfloat16 if place.type == "cuda" else torch.float32)
    seconds = {batch: _step(model, int(batch), place) for batch in batches}
    if rank == 0:
        print(json.dumps({"answers": answers, "split": split, "seconds": seconds}), flush=True)
    if world > 1:
        torch.distributed.destroy_process_group()


@torch.inference_mode()
def _step(model: Any, batch: int, device: torch.device) -> float:
    """Median seconds of a decode step of transformers' own cache."""
    ids = torch.full((batch, PROMPT), 5, device=device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(TOKENS):
        began = time.perf_counter()
        output = model(input_ids=ids[:, :1], past_key_values=output.past_key_values, use_cache=True)
        output.logits.argmax(-1).cpu()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
