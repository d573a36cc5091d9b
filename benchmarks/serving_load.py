"""The server under load, beside the model alone: throughput, delays and memory against streams, rate and length.

`del-server serve` with SmolLM2 in a process of its own, asked through gRPC with private prompts of the shipped codec;
in the same run, in turns with it, the same model offline in one batch, which no server can beat.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks import offline_vllm, smollm2
from benchmarks.batching import Bench
from benchmarks.load import Devices, Loaded, Request, devices
from benchmarks.report.results import Recorder
from benchmarks.section import Fact, Plot, Section, Settings, Step, Table
from benchmarks.server_process import ServerProcess, started
from benchmarks.service_loop import EVENTS, public_request, service_loop
from benchmarks.turns import in_turns

PROMPT = 64
SLOTS = 256
LOOPS = 31
OFFLINE = "offline, one batch"
STUB = "stub engine"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. rates: of Poisson arrivals, as shares of what 16 streams reach when they don't wait.

    streams: by concurrency, how often a level is measured. each: answers of each stream. offline: the largest batch.
    """

    streams: dict[int, int]
    tokens: int
    each: int
    rates: tuple[float, ...]
    arrivals: int
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    repeats: int
    offline: int


# Six to ten minutes of two cores.
FULL = Scale(
    {1: 2, 4: 2, 16: 3, 64: 1, 256: 1}, 64, 1, (0.3, 0.6, 0.9, 1.2), 12, (16, 64, 256, 1024), (16, 64, 256), 2, 16
)
QUICK = Scale({1: 1, 16: 1}, 16, 1, (1.0,), 8, (16, 64, 256), (8, 32), 1, 16)
STUB_STREAMS = (1, 4, 16, 64, 256)


class ServingLoad:
    """The measurements of one engine, each of which records what it finds."""

    def __init__(self, server: ServerProcess, bench: Bench, scale: Scale, settings: Settings) -> None:
        self._server, self._bench, self._scale = server, bench, scale
        self._bound = settings.first_token_bound
        self._way = f"{settings.engine} through gRPC"
        self._offline: Callable[[int, int], float] = bench.offline
        self._sixteen: list[float] = []

    def beside(self, offline: Callable[[int, int], float]) -> None:
        """Take another offline peer than `generate`: tokens a second of so many streams and tokens."""
        self._offline = offline

    def warm_up(self) -> None:
        """An answer of each side that nobody counts."""
        self._closed(1, PROMPT, 2, 1)
        self._offline(1, 2)

    def level(self, streams: int, record: Recorder) -> None:
        """A closed loop of so many streams, and the same prompts offline in one batch."""
        at = {"arrivals": "closed", "streams": streams}
        loaded = self._closed(streams, PROMPT, self._scale.tokens, self._scale.each)
        if streams == 16:
            self._sixteen.append(loaded.throughput() / self._scale.tokens)
        compared = streams <= self._scale.offline
        self._record(record, loaded, at, OFFLINE if compared else "")
        if compared:
            rate = self._offline(streams, self._scale.tokens)
            record.add("throughput", rate, "tokens/s", "higher", OFFLINE, at)

    def rate(self, share: float, record: Recorder) -> None:
        """Poisson arrivals at a share of what 16 streams reach."""
        rate = share * statistics.median(self._sixteen)
        request = partial(self._bench.request, PROMPT, self._scale.tokens)
        count = self._scale.arrivals

        async def load(many: Devices) -> Loaded:
            return await many.poisson(request, rate, count, seed=count)

        loaded = self._with_devices(min(count, SLOTS), load)
        at = {"arrivals": "Poisson", "share of 16 streams' rate": share}
        self._record(record, loaded, at)
        record.add("arrival rate", rate, "queries/s", "neither", self._way, at)

    def prompt(self, tokens: int, record: Recorder) -> None:
        """Time to first token of one stream, by the length of its prompt."""
        loaded = self._closed(1, tokens, 1, 1)
        record.add("first token", loaded.answered[0].first, "s", "lower", self._way, {"prompt tokens": tokens})

    def output(self, tokens: int, record: Recorder) -> None:
        """One stream's answer, by its length."""
        loaded = self._closed(1, PROMPT, tokens, 1)
        record.add("whole answer", loaded.answered[0].whole, "s", "lower", self._way, {"answer tokens": tokens})

    def loop(self, record: Recorder) -> None:
        """CPU time of the service itself, a token."""
        for turn in in_turns({"loop": service_loop()}, LOOPS)["loop"]:
            record.add("service's own work", turn.seconds / EVENTS, "s", "lower", STUB, {}, beside=turn.unit)

    def generator(self, address: str, streams: int, record: Recorder) -> None:
        """What the load itself can take, from a server that has no model."""
        request = partial(public_request, self._scale.tokens)
        loaded = asyncio.run(_closed(address, streams, request, 4))
        at = {"arrivals": "closed", "streams": streams}
        record.add("throughput", loaded.throughput(), "tokens/s", "higher", STUB, at)

    def _closed(self, streams: int, prompt: int, tokens: int, each: int) -> Loaded:
        request = partial(self._bench.request, prompt, tokens)
        return asyncio.run(_closed(self._server.address, streams, request, each))

    def _with_devices(self, count: int, load: Callable[[Devices], object]) -> Loaded:
        async def loaded() -> Loaded:
            async with devices(self._server.address, count) as many:
                return await load(many)

        return asyncio.run(loaded())

    def _record(self, record: Recorder, loaded: Loaded, at: dict[str, float | str], peer: str = "") -> None:
        add = partial(record.add, way=self._way, at=at)
        add("throughput", loaded.throughput(), "tokens/s", "higher", peer=peer)
        add("goodput", loaded.goodput(self._bound), "tokens/s", "higher")
        add("refused", len(loaded.samples) - len(loaded.answered), "queries", "lower")
        answered = loaded.answered
        spans = {
            "first token": [sample.first for sample in answered],
            "between tokens": [gap for sample in answered for gap in sample.gaps],
            "whole answer": [sample.whole for sample in answered],
            "queue": [sample.queue for sample in answered],
        }
        for name, seconds in spans.items():
            for label, share in QUANTILES.items():
                add(f"{name} {label}", quantile(seconds, share), "s", "lower")
        add("server memory", self._server.resident_bytes() / 2**20, "MiB", "lower")


async def _closed(address: str, streams: int, request: Request, each: int) -> Loaded:
    async with devices(address, streams) as many:
        return await many.closed(request, each)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """A warm server, a stub beside it, and all that is asked of them."""
    scale = QUICK if settings.quick else FULL
    options = ["--max-concurrent", str(SLOTS)]
    if settings.engine != "transformers":
        options += ["--engine", settings.engine]
    with ExitStack() as stack:
        with ThreadPoolExecutor() as side:
            starting = side.submit(stack.enter_context, started("benchmarks.stub"))
            server = smollm2.server(*options)
        stub = starting.result()
        load = ServingLoad(server, Bench(server.address), scale, settings)
        if settings.engine == "vllm":
            load.beside(stack.enter_context(offline_vllm.asking()))
        levels = [
            Step(f"{streams} streams", partial(load.level, streams))
            for turn in range(max(scale.streams.values()))
            for streams, turns in scale.streams.items()
            if turn < turns
        ]
        rates = [Step(f"Poisson arrivals at {share:g}", partial(load.rate, share)) for share in scale.rates]
        lengths = [
            *(Step(f"prompt of {tokens}", partial(load.prompt, tokens)) for tokens in scale.prompts),
            *(Step(f"answer of {tokens}", partial(load.output, tokens)) for tokens in scale.outputs),
        ] * scale.repeats
        stubs = [Step(f"stub, {n} streams", partial(load.generator, stub.address, n)) for n in STUB_STREAMS]
        stubs.append(Step("the service's own work", load.loop))
        load.warm_up()
        yield [*levels, *rates, *lengths, *stubs]


PLACES = ("arrivals", "streams", "share of 16 streams' rate")
DELAYS = ("first token p50", "first token p95", "between tokens p50", "between tokens p99", "whole answer p50")
CLOSED = {"arrivals": "closed"}
SIXTEEN, THROUGH = {**CLOSED, "streams": 16}, "transformers through gRPC"
SECTION = Section(
    group="serving",
    title="The server under load",
    about=(
        "SmolLM2-135M-Instruct behind del-server, 64 private tokens in at one bit. `closed`: so many streams, each of "
        "which asks again when it has its answer; `Poisson`: prompts arrive at random, and times count from when each "
        "was due. Goodput counts tokens of answers whose first token came in time. The stub engine has no model: its "
        "rows show what the load generator and the layers around a model can take."
    ),
    facts=(
        Fact("One server on this machine, sixteen streams at once", "throughput", THROUGH, SIXTEEN),
        Fact("First token of these sixteen, the median", "first token p50", THROUGH, SIXTEEN),
    ),
    steps=steps,
    tables=(
        Table(
            "Throughput",
            PLACES,
            ("throughput", "goodput", "refused", "server memory"),
        ),
        Table(
            "Delays",
            PLACES,
            (*DELAYS, "whole answer p95", "queue p50", "queue p95"),
        ),
        Table("CPU time of the service itself, a token", (), ("service's own work",)),
        Table("Length of the prompt, one stream", ("prompt tokens",), ("first token",)),
        Table("Length of the answer, one stream", ("answer tokens",), ("whole answer",)),
    ),
    plots=(
        Plot("Tokens a second by streams", "throughput", "streams", CLOSED),
        Plot("Time to first token (median) by streams", "first token p50", "streams", CLOSED),
        Plot("Between tokens (median) by streams", "between tokens p50", "streams", CLOSED),
        Plot("Time to first token by prompt length", "first token", "prompt tokens"),
        Plot("Whole answer by its length", "whole answer", "answer tokens"),
    ),
)
