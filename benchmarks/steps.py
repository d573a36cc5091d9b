"""`python -m benchmarks.steps`: the time of a decode step beside what memory bandwidth allows, recorded and not.

A step reads each weight and all keys and values once, so bytes over bandwidth bound it from below. What is timed is the
engine's own step: its slots, the model, and the choice of the next token of every row. `--parity` compares greedy
answers of the engine, recorded and not, with those of `generate`, in float32. `--compile` times steps that are compiled
before they are recorded, alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from del_codec.errors import EngineError, InvalidValue
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.compiled import CompiledSteps
from del_server.engine.probing import shared_layers
from del_server.engine.recorded import Record, recorder_of
from del_server.engine.sampling import Draw, take
from del_server.engine.slots import Slots
from del_server.engine.transformers import TransformersEngine
from del_server.models import load_model

# Of the card's data sheet, in bytes a second; the first name that the device's begins with counts.
NOMINAL = {
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA H100 NVL": 3.9e12,
    "NVIDIA H100 PCIe": 2.0e12,
    "NVIDIA H200": 4.8e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
}
COPY_BYTES = 1 << 30
SHAPES = {
    # The shape of Llama 3.1 8B.
    "8b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
    ),
    # That of SmolLM2-135M.
    "135m": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    ),
}
# How a step is made: compiled and recorded, recorded as it is, or launched kernel by kernel.
COMPILED, RECORDED, LAUNCHED = "compiled", "recorded", "launched"
PARITY_TOKENS = 48
PROFILED = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One figure. seconds: median of a step. first_seconds: of the first, which is recorded meanwhile, and compiled.
    limit_seconds: bytes over bandwidth. engine_tokens_s: of the whole engine, prompts included. engine_said: what it
    warned of meanwhile, such as that its steps go on uncompiled."""

    batch: int
    way: str
    positions: int
    seconds: float
    first_seconds: float
    gigabytes: float
    limit_seconds: float
    engine_tokens_s: float
    engine_said: list[str]

    @property
    def share(self) -> float:
        """Of the bandwidth's limit."""
        return self.limit_seconds / self.seconds

    def line(self) -> str:
        """For people."""
        return (
            f"batch {self.batch:4} {self.way}: {1e3 * self.seconds:8.3f} ms a step of {self.gigabytes:7.3f} GB, limit "
            f"{1e3 * self.limit_seconds:7.3f} ms, share {self.share:5.3f}; the first took {self.first_seconds:.2f} s; "
            f"engine {self.engine_tokens_s:8.0f} tokens/s" + "".join(f"; it said: {said}" for said in self.engine_said)
        )


def main() -> None:
    """Measure and print."""
    arguments = _parser().parse_args()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    nominal, copied = nominal_bandwidth(device), copy_bandwidth(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}: copies at {copied / 1e9:.0f} GB/s, nominal {(nominal or 0) / 1e9:.0f} GB/s; torch {torch.__version__}"
    )
    print(f"transformers {transformers.__version__}", flush=True)
    report: dict[str, Any] = {"device": name, "nominal": nominal, "copied": copied, "torch": torch.__version__}
    if arguments.parity:
        model = model_of(arguments.model, torch.float32, device, arguments.layers)
        report["layers"] = model.config.num_hidden_layers
        report["parity"] = asyncio.run(parity(model, arguments.compile))
        print(f"greedy, float32, {arguments.model}: {report['parity']}", flush=True)
        del model
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = model_of(arguments.model, dtype, device, arguments.layers)
    report |= {"model": arguments.model, "dtype": str(dtype), "steps": []}
    try:
        ways = ways_of(model, arguments.compile)
    except InvalidValue as error:
        raise SystemExit(f"steps: {error}") from None
    for batch in arguments.batch:
        for way, record in ways.items():
            try:
                step = measure(model, batch, arguments.prompt, arguments.tokens, way, record, nominal or copied)
            except Exception as error:
                print(f"batch {batch}: failed ({type(error).__name__}: {error})", flush=True)
                continue
            print(step.line(), flush=True)
            report["steps"].append({**asdict(step), "share": step.share})
    if arguments.profile:
        print(profiled(model, arguments.batch[0], arguments.prompt, next(iter(ways.values()))))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def model_of(name: str, dtype: torch.dtype, device: torch.device, layers: int = 0) -> Any:
    """A model of a name that the server takes, or one of a shape in SHAPES with random weights, made on the device."""
    if name not in SHAPES:
        return load_model(name, str(dtype).removeprefix("torch."), str(device))
    config = LlamaConfig(**SHAPES[name].to_dict())
    config.num_hidden_layers = layers or config.num_hidden_layers
    config._attn_implementation = "sdpa"
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
            return model.eval()
    finally:
        torch.set_default_dtype(before)


def ways_of(model: Any, compiled: bool) -> dict[str, Record | None]:
    """What records steps, by the way's name. Raises InvalidValue where compiled ones can't be had."""
    recorder = recorder_of(model)
    if not compiled:
        return {RECORDED: recorder, LAUNCHED: None} if recorder else {LAUNCHED: None}
    if recorder is None:
        raise InvalidValue("compile", True, "leave it out: that is for a model on one GPU")
    return {COMPILED: CompiledSteps(model, recorder)}


def measure(
    model: Any, batch: int, prompt: int, tokens: int, way: str, record: Record | None, bandwidth: float
) -> Step:
    """The median of so many steps behind prompts of such a length, and the engine's pace with as many streams."""
    times, kv_bytes = step_seconds(model, batch, prompt, tokens, record)
    if isinstance(record, CompiledSteps) and not record.compiles:
        raise EngineError("the model's layers could not be compiled")
    positions = prompt + tokens // 2
    read = weight_bytes(model) + batch * positions * kv_bytes
    with heard() as said:
        pace = asyncio.run(engine_pace(model, batch, prompt, tokens, way))
    seconds = statistics.median(times)
    return Step(batch, way, positions, seconds, times[0], read / 1e9, read / bandwidth, pace, said)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the engine warns of meanwhile."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("del_server.engine")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@torch.inference_mode()
def step_seconds(model: Any, batch: int, prompt: int, tokens: int, record: Record | None) -> tuple[list[float], int]:
    """Each step's seconds, and bytes of a position's keys and values."""
    slots, device = filled_slots(model, batch, prompt, tokens, record)
    draws, last = [Draw(Sampling(tokens, ignore_eos=True), 0)] * batch, [5] * batch
    times = []
    for _ in range(tokens):
        started = time.perf_counter()
        chosen = take(slots.step(model, last, device), draws)
        times.append(time.perf_counter() - started)
        last = [token[0] if isinstance(token, tuple) else 0 for token in chosen]
        for row in range(batch):
            slots.advance(row)
    return times, slots.bytes // slots.positions


def filled_slots(model: Any, batch: int, prompt: int, tokens: int, record: Record | None) -> tuple[Slots, torch.device]:
    """Rows with a prompt in each and room for so many tokens behind it, and the model's device."""
    shapes = shared_layers(model)
    if shapes is None:
        raise EngineError("the model's sequences can't share a pass")
    slots = Slots(shapes, record)
    slots.bound(batch * (prompt + tokens + 1))
    embeddings = TokenEmbedder(model)([5 + place % 100 for place in range(prompt)])
    for row in range(batch):
        slots.open()
        slots.enter(model, row, [embeddings])
        slots.advance(row, prompt)
    return slots, model.get_input_embeddings().weight.device


@torch.inference_mode()
def profiled(model: Any, batch: int, prompt: int, record: Record | None) -> str:
    """A table of what a step's time goes to, by torch's profiler, over PROFILED steps."""
    from torch.profiler import ProfilerActivity, profile

    slots, device = filled_slots(model, batch, prompt, 2 * PROFILED, record)
    for _ in range(PROFILED):
        slots.step(model, [5] * batch, device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with profile(activities=activities) as run:
        for _ in range(PROFILED):
            slots.step(model, [5] * batch, device)
        synchronise(device)
    table = run.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=12, max_name_column_width=60)
    return f"{PROFILED} steps of batch {batch}:\n{table}"


def engine_of(model: Any, way: str, **options: int) -> TransformersEngine:
    """An engine whose steps are made in that way."""
    config = EngineConfig(**options, record_steps=way != LAUNCHED, compile_steps=way == COMPILED)
    return TransformersEngine(model, config)


async def engine_pace(model: Any, batch: int, prompt: int, tokens: int, way: str) -> float:
    """Tokens a second of the engine with so many streams at once, after one round that warms it up."""
    engine = engine_of(model, way, running=batch, kv_tokens=max(batch * (prompt + tokens), context_of(model)))
    await engine.start()
    try:
        embeddings = TokenEmbedder(model)([5 + place % 100 for place in range(prompt)])

        async def answer() -> int:
            sampling = Sampling(tokens, ignore_eos=True)
            return len([event async for event in engine.submit(embeddings, sampling) if isinstance(event, Token)])

        await asyncio.gather(*(answer() for _ in range(batch)))
        started = time.perf_counter()
        counts = await asyncio.gather(*(answer() for _ in range(batch)))
        return sum(counts) / (time.perf_counter() - started)
    finally:
        await engine.stop()


async def parity(model: Any, compiled: bool) -> dict[str, str]:
    """Whether greedy answers to prompts of several lengths, begun one after another, are those of `generate`."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    chosen = [[(7 * place + 31 * length) % vocabulary for place in range(length)] for length in (5, 64, 33, 18, 90)]
    expected = [generated(model, prompt) for prompt in chosen]
    outcome = {}
    for way in (COMPILED if compiled else RECORDED, LAUNCHED):
        found = await staggered(model, chosen, way)
        differing = [index for index, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
        outcome[way] = "identical to generate" if not differing else f"answers {differing} differ from generate's"
    return outcome


def generated(model: Any, prompt: Sequence[int]) -> list[int]:
    """What `generate` gives, alone."""
    ids = torch.tensor([list(prompt)], device=model.get_input_embeddings().weight.device)
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=PARITY_TOKENS, do_sample=False, eos_token_id=None
        )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


async def staggered(model: Any, prompts: Sequence[Sequence[int]], way: str) -> list[list[int]]:
    """The engine's answers, each begun when the one before has given three tokens."""
    engine = engine_of(model, way, kv_tokens=context_of(model))
    await engine.start()
    embed = TokenEmbedder(model)
    begun = [asyncio.Event() for _ in range(len(prompts) + 1)]
    begun[0].set()

    async def answer(index: int, prompt: Sequence[int]) -> list[int]:
        await begun[index].wait()
        tokens = []
        async for event in engine.submit(embed(prompt), Sampling(PARITY_TOKENS, ignore_eos=True)):
            if isinstance(event, Token):
                tokens.append(event.token_id)
            if len(tokens) >= 3:
                begun[index + 1].set()
        return tokens

    try:
        return await asyncio.gather(*(answer(index, prompt) for index, prompt in enumerate(prompts)))
    finally:
        await engine.stop()


def weight_bytes(model: Any) -> int:
    """What a step reads of the weights: all but the table of input embeddings, unless that is the output layer, too."""
    held = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if table.data_ptr() != head.data_ptr():
        del held[table.data_ptr()]
    return sum(held.values())


def context_of(model: Any) -> int:
    """Of the model itself."""
    return int(model.config.max_position_embeddings)


def nominal_bandwidth(device: torch.device) -> float | None:
    """Bytes a second of the card's data sheet, if it is a known one."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((value for known, value in NOMINAL.items() if name.startswith(known)), None)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        times.append(time.perf_counter() - started)
    return 2 * COPY_BYTES / statistics.median(times)


def synchronise(device: torch.device) -> None:
    """Wait for what a device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    shapes = ", ".join(SHAPES)
    parser.add_argument(
        "--model", default="smollm2", help=f"a model of the server, or random weights of a shape: {shapes}"
    )
    parser.add_argument("--layers", type=int, default=0, help="of a shape's layers only so many (default: all)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256], help="rows of a step")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="steps behind it (default: %(default)s)")
    parser.add_argument("--device", default="", help="default: the GPU if there is one")
    parser.add_argument("--parity", action="store_true", help="compare greedy answers in float32 first")
    parser.add_argument("--profile", action="store_true", help="say what the first batch's steps spend their time on")
    parser.add_argument("--compile", action="store_true", help="time compiled steps, and these alone")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


if __name__ == "__main__":
    main()
