"""Growth: what each cost does when its cause grows, and what that says of a thousand, and of ten million, devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import growth_local as local
from benchmarks import growth_served as served
from benchmarks import smollm2
from benchmarks.batching import Bench
from benchmarks.fleet import predictions
from benchmarks.section import Fact, Plot, Section, Settings, Step, Table
from benchmarks.server_process import started

SLOTS = 64


@dataclass(frozen=True, slots=True)
class Scale:
    """Where each cause is looked at, how long answers are, and how often it all is measured."""

    tokens: tuple[int, ...]
    dims: tuple[int, ...]
    vocabularies: tuple[int, ...]
    prompts: tuple[int, ...]
    streams: tuple[int, ...]
    stub_streams: tuple[int, ...]
    connected: tuple[int, ...]
    turns: tuple[int, ...]
    answer: int
    repeats: int
    loads: int


FULL = Scale(
    tokens=(16, 64, 256, 1024),
    dims=(16, 32, 64, 128, 256),
    vocabularies=(4096, 16_384, 49_152, 131_072),
    prompts=(64, 256, 1024, 4096),
    streams=(1, 4, 16, 64),
    stub_streams=(1, 4, 16, 64, 256),
    connected=(1, 16, 64, 256, 1024),
    turns=(1, 2, 4, 8, 16, 32),
    answer=64,
    repeats=7,
    loads=3,
)
QUICK = Scale(
    tokens=(16, 64, 256),
    dims=(16, 64, 256),
    vocabularies=(4096, 16_384, 49_152),
    prompts=(64, 128, 256),
    streams=(1, 16),
    stub_streams=(1, 16, 64),
    connected=(1, 16, 256),
    turns=(1, 2, 4, 8),
    answer=32,
    repeats=2,
    loads=1,
)


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """What this process can do alone, then what takes servers."""
    scale = QUICK if settings.quick else FULL
    torch.set_num_threads(1)
    with ExitStack() as stack:
        server = smollm2.server("--max-concurrent", str(SLOTS))
        stub = stack.enter_context(started("benchmarks.stub"))
        bench = Bench(server.address)
        alone = [
            *(Step(f"{n} tokens", partial(local.by_tokens, n, scale.repeats)) for n in scale.tokens),
            *(Step(f"{n} dimensions", partial(local.by_dimension, n, scale.repeats)) for n in scale.dims),
            *(Step(f"vocabulary {n}", partial(local.by_vocabulary, n, scale.repeats)) for n in scale.vocabularies),
            *(Step(f"{n} prompts in a ledger", partial(local.by_prompts, n)) for n in scale.prompts),
            *(Step(f"{n} devices connected", partial(served.by_connected, n)) for n in scale.connected),
        ]
        loads = [
            *(Step(f"{n} streams", partial(served.by_streams, server, bench, n, scale.answer)) for n in scale.streams),
            *(
                Step(f"{n} streams, no model", partial(served.by_streams_without_model, stub, n, scale.answer))
                for n in scale.stub_streams
            ),
            Step("a conversation", partial(served.conversation, stub, scale.turns, scale.answer)),
        ]
        yield [*alone, *loads * scale.loads]


SECTION = Section(
    group="growth",
    title="Growth: what happens when there is more of it",
    about=(
        "Every cost here is measured at several sizes of its cause: tokens of a prompt, dimensions of a codec, the "
        "model's vocabulary, streams at once, devices that are connected, turns of a conversation. An exponent of 1 "
        "means that the cost doubles with its cause, 0 that it does not care, 2 that it quadruples. What ten million "
        "devices would take is worked out from these lines, under the assumptions that stand below it."
    ),
    facts=(
        Fact(
            "Up in the eighth turn of a conversation, all turns before it included",
            local.BYTES,
            local.MESSAGES,
            {served.TURN: 8},
        ),
    ),
    steps=steps,
    tables=(
        Table("By tokens of the prompt", (local.PROMPT,), (local.TIME, local.BYTES)),
        Table("By dimensions of the codec", ("dim",), (local.TIME, local.BYTES), f"{local.TOKENS} tokens."),
        Table("By the model's vocabulary", ("vocabulary",), (local.TIME, local.BYTES), f"{local.TOKENS} tokens."),
        Table(
            "By streams at once",
            (served.STREAMS,),
            (served.THROUGHPUT, served.ANSWER, served.SHARED),
            f"{served.PROMPT} tokens in, {FULL.answer} out ({QUICK.answer} with `--quick`).",
        ),
        Table("By devices that stay connected", (served.CONNECTED,), (served.MEMORY,)),
        Table("By turns of a conversation", (served.TURN,), (local.TIME, local.BYTES)),
        Table("A ledger by prompts", (local.PROMPTS,), (local.BYTES,), f"{local.TOKENS} tokens each, all remembered."),
    ),
    plots=(
        Plot("CPU time by tokens of the prompt", local.TIME, local.PROMPT),
        Plot("Bytes by tokens of the prompt", local.BYTES, local.PROMPT),
        Plot("CPU time by dimensions", local.TIME, "dim"),
        Plot("Bytes by dimensions", local.BYTES, "dim"),
        Plot("CPU time by vocabulary", local.TIME, "vocabulary"),
        Plot("Bytes by vocabulary", local.BYTES, "vocabulary"),
        Plot("Tokens a second by streams", served.THROUGHPUT, served.STREAMS),
        Plot("Time of an answer by streams", served.ANSWER, served.STREAMS),
        Plot("The server's CPU time a token by streams", served.SHARED, served.STREAMS),
        Plot("The server's memory by connected devices", served.MEMORY, served.CONNECTED),
        Plot("A turn's CPU time by turn", local.TIME, served.TURN),
        Plot("Bytes by turn", local.BYTES, served.TURN),
        Plot("A ledger's bytes by prompts", local.BYTES, local.PROMPTS),
    ),
    sheets=predictions,
)
