"""`python -m benchmarks.crowd`: the server with SmolLM2 under many streams, asked by processes that do nothing else.

`del-server serve` has a process of its own, on a GPU where there is one, and its devices have PROCESSES, each with its
share of the streams: so the load takes no time of the server. A stream asks again when it was answered; all begin at
once. Offline, the same kind of prompts go through `generate` in one batch, in this process, in turns with the server.
Figures go to standard output and, as JSON, to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.layers import private_query
from benchmarks.load import Loaded, Sample, devices
from benchmarks.server_process import ServerProcess, running_server
from del_client.query import Query
from del_client.transport.messages import requests
from del_codec.v1 import inference_pb2 as pb

SLOTS = 256
PROCESSES = 4
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Level:
    """One number of streams. Rates in tokens a second, times in seconds; offline_rate: None where it was not measured.

    cpu_seconds: of the server's process. memory_mib: what that process holds after the load, without the GPU's.
    """

    streams: int
    answers: int
    refused: int
    rate: float
    offline_rate: float | None
    first_p50: float
    first_p95: float
    gap_p50: float
    gap_p99: float
    whole_p50: float
    queue_p50: float
    seconds: float
    cpu_seconds: float
    memory_mib: float

    def line(self) -> str:
        """For people."""
        beside = "" if self.offline_rate is None else f", {self.rate / self.offline_rate:.2f} of generate's"
        return (
            f"{self.streams:4} streams: {self.rate:8.0f} tokens/s{beside}; first token {1e3 * self.first_p50:.0f} ms "
            f"(p95 {1e3 * self.first_p95:.0f}), between tokens {1e3 * self.gap_p50:.1f} ms (p99 "
            f"{1e3 * self.gap_p99:.1f}); {self.refused} of {self.answers} refused"
        )


def main() -> None:
    """Measure and print."""
    arguments = _parser().parse_args()
    if arguments.load:
        _serve_lines(arguments.load, arguments.tokens)
        return
    started = time.perf_counter()
    offline = _offline() if arguments.offline else None
    levels = []
    with (
        running_server("--max-concurrent", str(SLOTS)) as server,
        crowd(server.address, arguments.processes, arguments.tokens) as load,
    ):
        for streams in arguments.streams:
            # A round that nobody counts: GPUs record the steps of each number of rows when they first need them.
            load(streams, 1)
            rate = offline(streams, arguments.tokens) if offline and streams in arguments.offline else None
            levels.append(level(server, load, streams, arguments.each, rate))
            print(levels[-1].line(), flush=True)
    report = {
        **_machine(),
        "processes": arguments.processes,
        "tokens": arguments.tokens,
        "each": arguments.each,
        "seconds": time.perf_counter() - started,
        "levels": [asdict(each) for each in levels],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def level(
    server: ServerProcess, load: Callable[[int, int], Loaded], streams: int, each: int, offline: float | None
) -> Level:
    """So many streams that ask so often each."""
    before = server.cpu_seconds()
    loaded = load(streams, each)
    answered = loaded.answered
    if not answered:
        raise SystemExit(f"of {streams} streams none was answered: {loaded.samples[0].refused}")
    firsts = [sample.first for sample in answered]
    gaps = [gap for sample in answered for gap in sample.gaps]
    return Level(
        streams=streams,
        answers=len(loaded.samples),
        refused=len(loaded.samples) - len(answered),
        rate=loaded.throughput(),
        offline_rate=offline,
        first_p50=_quantile(firsts, 0.5),
        first_p95=_quantile(firsts, 0.95),
        gap_p50=_quantile(gaps, 0.5),
        gap_p99=_quantile(gaps, 0.99),
        whole_p50=statistics.median(sample.whole for sample in answered),
        queue_p50=statistics.median(sample.queue for sample in answered),
        seconds=loaded.seconds,
        cpu_seconds=server.cpu_seconds() - before,
        memory_mib=server.resident_bytes() / 2**20,
    )


@contextmanager
def crowd(address: str, processes: int, tokens: int) -> Iterator[Callable[[int, int], Loaded]]:
    """A function from streams and answers of each to what became of them, asked by so many processes."""
    command = [sys.executable, "-m", "benchmarks.crowd", "--load", address, "--tokens", str(tokens)]
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        loads: list[Any] = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(processes)]
        for one in loads:
            stack.callback(one.stdin.close)

        def load(streams: int, each: int) -> Loaded:
            shares = [streams // processes + (index < streams % processes) for index in range(processes)]
            busy = [(one, share) for one, share in zip(loads, shares, strict=True) if share]
            for one, share in busy:
                _tell(one, f"{share} {each}")
            for one, _ in busy:  # connected, and their prompts drawn
                _hear(one)
            started = time.perf_counter()
            for one, _ in busy:
                _tell(one, "go")
            samples = [Sample(**sample) for one, _ in busy for sample in json.loads(_hear(one))]
            return Loaded(samples, time.perf_counter() - started)

        yield load


def _tell(process: Any, line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: Any) -> str:
    line: str = process.stdout.readline()
    if not line:
        raise SystemExit("a process of the load ended")
    return line


def _serve_lines(address: str, tokens: int) -> None:
    """Be one process of the load: answer each line "STREAMS EACH" with "ready", and a line after it with samples."""
    for line in sys.stdin:
        streams, each = map(int, line.split())
        print(json.dumps(asyncio.run(_loaded(address, streams, each, tokens))), flush=True)


async def _loaded(address: str, streams: int, each: int, tokens: int) -> list[dict[str, Any]]:
    # Bits are drawn beforehand, afresh for each answer.
    drawn = [_request(private_query(tokens)) for _ in range(streams * each)]
    async with devices(address, streams) as many:
        print("ready", flush=True)
        sys.stdin.readline()
        loaded = await many.closed(drawn.pop, each)
    return [asdict(sample) for sample in loaded.samples]


def _request(query: Query) -> pb.GenerateRequest:
    (request,) = requests(1, query, 0)
    request.open.options.ignore_eos = True
    return request


def _offline() -> Callable[[int, int], float]:
    """Tokens a second of `generate` in this process, once it is warm."""
    from benchmarks.batching import Bench

    bench = Bench("")
    bench.offline(1, 2)
    return bench.offline


def _machine() -> dict[str, str]:
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    return {"device": device, "torch": torch.__version__, "transformers": transformers.__version__}


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 64, 256], help="(default: %(default)s)")
    parser.add_argument("--offline", type=int, nargs="*", default=[], help="batches of `generate` beside them")
    parser.add_argument("--each", type=int, default=2, help="answers of each stream (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each answer (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of the load (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
