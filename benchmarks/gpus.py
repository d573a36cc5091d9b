"""`python -m benchmarks.gpus`: what a second GPU brings. Replicas, a replica that is killed, a model over two cards.

Each section is measured apart, and one that fails says why and leaves the others be. Throughput is that of the engine's
interface: all streams are tasks of this process, which reads every token that the workers make. `--device cpu` tries it
out without GPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import spread
from benchmarks.report.machine import describe
from benchmarks.steps import SHAPES, model_of
from del_codec.errors import DelError, UnavailableError
from del_server.config import ServeConfig
from del_server.embedding_model import TokenEmbedder
from del_server.engine.base import Engine, Sampling, Token
from del_server.engine.capacity import EngineConfig
from del_server.engine.process.engine import ProcessEngine
from del_server.engine.replicas import Replicas
from del_server.engines import ReplicasHost

PROMPT = 64
REPEATS = 3
GOAL = 1.9


def main() -> None:
    """Measure, print, and write JSON after each section."""
    arguments = _parser().parse_args()
    report: dict[str, Any] = {"machine": describe(), "gpus": _gpus(), "command": _command(arguments), "sections": {}}
    sections: dict[str, Callable[[argparse.Namespace], Any]] = {
        "replicas": replicas_section,
        "spread": spread.spread_section,
        "tensor_parallel": spread.tensor_parallel_section,
    }
    for name in arguments.sections:
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        try:
            found = sections[name](arguments)
        except Exception as error:
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
        report["sections"][name] = {**found, "seconds": time.perf_counter() - began}
        print(json.dumps(report["sections"][name], indent=1), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def replicas_section(arguments: argparse.Namespace) -> dict[str, Any]:
    """Throughput with one worker and with two, then one of them killed under load."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_replicas(arguments, model_folder(arguments.model, Path(folder) / "model")))


def model_folder(model: str, into: Path) -> str:
    """A model that the server takes, or one of a shape with random weights, written there."""
    if model not in SHAPES:
        return model
    model_of(model, torch.bfloat16, torch.device("cpu")).save_pretrained(into)
    return str(into)


async def _replicas(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    host = ReplicasHost(ServeConfig(model=model, replicas=2, device=arguments.device))
    most = max(arguments.streams)
    bounds = EngineConfig(running=most, waiting=most, context_tokens=2 * (PROMPT + arguments.tokens))
    workers = host.replicas(bounds)
    both = Replicas(workers)
    began = time.perf_counter()
    await both.start()
    found: dict[str, Any] = {"start_seconds": time.perf_counter() - began}
    # Where the server decodes prompts: checking one on a CPU of many cores takes all of them.
    prompt = TokenEmbedder(host.model)([5 + place % 100 for place in range(PROMPT)])
    try:
        found["throughput"] = await throughput(workers[0], both, prompt, arguments.streams, arguments.tokens)
        try:
            found["kill"] = await killed(workers, both, prompt, min(arguments.streams), arguments.tokens)
        except Exception as error:
            traceback.print_exc()
            found["kill"] = {"failed": f"{type(error).__name__}: {error}"}
    finally:
        await both.stop()
    return found


async def throughput(
    one: Engine, both: Engine, prompt: Tensor, streams: Sequence[int], tokens: int
) -> list[dict[str, Any]]:
    """Tokens a second, in turns: as many streams in all, and as many for each replica."""
    rows = []
    for count in streams:
        ways = {"one": (one, count), "two": (both, count), "two, twice the streams": (both, 2 * count)}
        for engine, together in ways.values():
            await _round(engine, prompt, together, tokens)  # recordings are made, memory is taken
        paces: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(REPEATS):
            for way, (engine, together) in ways.items():
                paces[way].append(await _round(engine, prompt, together, tokens))
        medians = {way: statistics.median(pace for pace, _ in values) for way, values in paces.items()}
        row = {
            "streams": count,
            "tokens_s": {way: [pace for pace, _ in values] for way, values in paces.items()},
            "parent_cpu": {way: statistics.median(share for _, share in values) for way, values in paces.items()},
            "ratio": medians["two"] / medians["one"],
            "ratio_twice_the_streams": medians["two, twice the streams"] / medians["one"],
            "goal": GOAL,
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


async def _round(engine: Engine, prompt: Tensor, streams: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of so many streams, two answers each, and this process's share of a core."""

    async def stream() -> int:
        sampling, count = Sampling(tokens, ignore_eos=True), 0
        for _ in range(2):
            async for event in engine.submit(prompt, sampling):
                count += isinstance(event, Token)
        return count

    busy, began = time.process_time(), time.perf_counter()
    counts = await asyncio.gather(*(stream() for _ in range(streams)))
    seconds = time.perf_counter() - began
    return sum(counts) / seconds, (time.process_time() - busy) / seconds


async def killed(
    workers: Sequence[ProcessEngine], both: Replicas, prompt: Tensor, streams: int, tokens: int
) -> dict[str, Any]:
    """Streams that ask again and again while one worker is killed, until it is back and has answered."""
    counts = {"answered_at_once": 0, "answered_again": 0, "unavailable": 0, "retry_hints": 0, "other_errors": 0}
    over = asyncio.Event()
    sampling = Sampling(tokens, ignore_eos=True)

    async def stream() -> None:
        again = False
        while not over.is_set() or again:
            try:
                got = [event async for event in both.submit(prompt, sampling) if isinstance(event, Token)]
            except UnavailableError as error:
                counts["unavailable"] += 1
                counts["retry_hints"] += error.retry_after is not None
                again = True
                await asyncio.sleep(error.retry_after or 1.0)
            except DelError:
                counts["other_errors"] += 1
            else:
                counts["answered_again" if again else "answered_at_once"] += len(got) == tokens
                again = False

    asking = [asyncio.create_task(stream()) for _ in range(streams)]
    await asyncio.sleep(1.0)
    victim, other = workers
    load = [worker.load().running + worker.load().waiting for worker in workers]
    pid, began = victim.pid, time.perf_counter()
    if pid is None:
        raise UnavailableError("there is no worker to kill")
    os.kill(pid, signal.SIGKILL)
    while victim.health().ok:
        await asyncio.sleep(0)
    noticed = time.perf_counter() - began
    sent_while_dead = 0
    while not victim.health().ok:
        sent_while_dead = max(sent_while_dead, victim.load().running + victim.load().waiting)
        await asyncio.sleep(0.01)
    back = time.perf_counter() - began
    while not victim.load().running:
        await asyncio.sleep(0.01)
    joined = time.perf_counter() - began
    await asyncio.sleep(1.0)
    over.set()
    await asyncio.gather(*asking)
    return {
        "streams": streams,
        "load_when_killed": load,
        **counts,
        "noticed_seconds": noticed,
        "most_sent_while_dead": sent_while_dead,
        "back_seconds": back,
        "answers_again_seconds": joined,
        "other_answered_throughout": other.health().ok,
    }


def _gpus() -> list[str]:
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _command(arguments: argparse.Namespace) -> str:
    asked = {name: value for name, value in vars(arguments).items() if name != "json"}
    return f"python -m benchmarks.gpus {json.dumps(asked)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpus", description=__doc__)
    names = ("replicas", "spread", "tensor_parallel")
    parser.add_argument("--sections", nargs="+", choices=names, default=list(names), help="(default: all)")
    parser.add_argument("--model", default="smollm2", help=f"of the replicas; or random weights: {', '.join(SHAPES)}")
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256], help="(default: 64 256)")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer (default: %(default)s)")
    parser.add_argument("--large", default="8b", choices=SHAPES, help="the shape over two cards (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=0, help="of it, timed (default: all)")
    parser.add_argument("--shallow", type=int, default=4, help="layers, compared in float32 (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="rows of a step of it")
    parser.add_argument("--device", default="auto", help="auto, or cpu to try it out (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser


if __name__ == "__main__":
    main()
