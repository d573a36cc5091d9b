"""What a prompt takes on a cable, counted by the kernel outside of both processes, and how soon its answer begins.

Two network namespaces, a stub engine behind the real service in one, a device in the other. Needs root and iproute2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.break_even import break_even_rows, costs, results_at
from benchmarks.cable import NARROW, refused
from benchmarks.carried import EMBEDDINGS, PEERS, UNDECODED, WIDTH, private, undecoded
from benchmarks.line import Line
from benchmarks.report.results import Recorder, Run
from benchmarks.section import Fact, Plot, Section, Settings, Sheet, Step, Table
from benchmarks.wire_server import Door

# Bits a second, and as tc writes them.
RATES = {64e3: NARROW, 1e6: "1mbit", 20e6: "20mbit"}
UNSHAPED = 0.0
GROUP = "wire"
PROMPT = 256
MANY = 16
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
LENGTHS = (1, 16, 64, 256, 1024, 4096)
PEER = "float16 embeddings"
LINK = "link, kbit/s"
# Ways whose time to first token is measured over TLS, too.
OVER_TLS = (private(1), PEER, "plain text")
ROUNDS = 5


def tls(on: bool) -> str:
    """As places name it."""
    return "on" if on else "off"


def bytes_a_token(line: Line, on: bool, way: str, tokens: int, streams: int, record: Recorder) -> None:
    """From the device, headers of Ethernet, IP and TCP and acknowledgements included; at a door without a decoder."""
    passed = line.ask(Door(on, decoded=False), way, tokens, streams)
    at = {"prompt tokens": tokens, "streams": streams, "TLS": tls(on)}
    peer = "" if way == PEER else PEER
    record.add("bytes up a token", passed.up / (tokens * streams), "B", "lower", way, at, peer)
    record.add("bytes down a prompt", passed.down / streams, "B", "lower", way, at)


def connection_bytes(line: Line, on: bool, record: Recorder) -> None:
    """Of a connection that is opened, asked for one token after a prompt of one, and closed."""
    passed = line.ask(Door(on, decoded=False), private(1), 1, fresh=True)
    for name, count in (("up", passed.up), ("down", passed.down)):
        record.add(f"bytes {name}, new connection", count, "B", "lower", private(1), {"TLS": tls(on)})


def first_token(line: Line, on: bool, rate: float, way: str, record: Recorder) -> None:
    """Time to first token of PROMPT tokens over a shaped cable."""
    line.shape(RATES.get(rate, ""))
    decoded = way not in map(undecoded, BITS)
    (first,) = line.ask(Door(on, decoded), way, PROMPT).firsts
    line.shape("")
    name = "first token" if rate else "first token, unshaped"
    at = {"TLS": tls(on), **({LINK: rate / 1e3} if rate else {})}
    record.add(name, first, "s", "lower", way, at, "" if way == PEER else PEER)


def payload_bytes(way: str, tokens: int) -> float:
    """What a prompt's content takes, roughly."""
    if way.startswith("DEL"):
        return 8 * tokens * int(way.split()[1])
    sizes = dict(zip(EMBEDDINGS, (2304, 1152, 578), strict=True))
    return tokens * sizes.get(way, 1536 if way.startswith("JSON") else 4)


def bearable(way: str, rate: float, seconds: float) -> bool:
    """Whether a prompt passes within so many seconds."""
    return not rate or 8 * payload_bytes(way, PROMPT) / rate < seconds


def counted(line: Line, quick: bool) -> list[Step]:
    """Every way at every length, with TLS and without; quick: with TLS at one length."""
    ways = [*(private(bits) for bits in ((1, 8) if quick else BITS)), *PEERS]
    lengths = (1, PROMPT) if quick else LENGTHS
    places = [(on, tokens, 1) for on in (False, True) for tokens in lengths if tokens == PROMPT or not (on and quick)]
    places += [(on, PROMPT, MANY) for on in ((False,) if quick else (False, True))]
    return [
        Step(
            f"bytes: {way}, {tokens} tokens, {streams} at once, TLS {tls(on)}",
            partial(bytes_a_token, line, on, way, tokens, streams),
        )
        for way in ways
        for on, tokens, streams in places
    ] + [Step(f"bytes of a connection, TLS {tls(on)}", partial(connection_bytes, line, on)) for on in (False, True)]


def begun(line: Line, quick: bool) -> list[Step]:
    """Every way over every link that it passes in bearable time; some over TLS, too."""
    bits, seconds = ((1, 8), 5.0) if quick else ((1, 2, 4, 8), 25.0)
    ways = [*map(private, bits), undecoded(1), undecoded(8), *PEERS]
    rates = [rate for rate in (*RATES, UNSHAPED) if rate != 1e6 or not quick]
    over_tls = () if quick else OVER_TLS
    return [
        Step(f"{way} at {RATES.get(rate, 'any rate')}, TLS {tls(on)}", partial(first_token, line, on, rate, way))
        for rate in rates
        for on in (False, True)
        for way in ways
        if bearable(way, rate, seconds) and (way in over_tls or not on)
    ]


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """Bytes on a cable without a bound, and the first token over each rate; rounds are the repeats."""
    with Line() as line:
        yield counted(line, settings.quick) + begun(line, settings.quick)


def sheets(run: Run) -> list[Sheet]:
    """Where DEL breaks even with each other way, without TLS."""
    off = {"TLS": tls(False)}
    counted_bytes = results_at(run, GROUP, "bytes up a token", **{"prompt tokens": PROMPT, "streams": 1}, **off)
    timed = results_at(run, GROUP, "first token", **off)
    known = costs(counted_bytes, results_at(run, GROUP, "first token, unshaped", **off), PROMPT, UNDECODED)
    rows = break_even_rows(known, timed, "DEL", LINK)
    about = (
        f"The rate of a link below which the answer to {PROMPT} tokens begins sooner in the row's way than in the "
        "column's: bytes saved over seconds later on a link without a bound, in brackets what the spread of the "
        "seconds allows. Where both were timed over links of known rates, the last on which the one was sooner and the "
        "first on which it was later say what was measured. Ways that save no bytes are sooner on none."
    )
    return [Sheet("Where compact codes break even", about, rows)] if len(rows) > 1 else []


SECTION = Section(
    group=GROUP,
    title="The wire",
    about=(
        "Frames on a cable between two network namespaces, counted by the kernel: Ethernet, IP, TCP, TLS where it is "
        "on, HTTP/2 and gRPC are all in it. Every way goes through the same service on a warm connection, all prompts "
        f"on one, an answer of one token, a stub for an engine. `first token` is of {PROMPT} tokens; it includes what "
        "the server's decoder computes, which private prompts alone need, and nothing of what a server does with "
        "embeddings or text; `no decoder` is a server that decodes in next to no time. A link lets 2 kB (16 kB from 1 "
        "Mbit/s) pass at once before it is slow, and one on which a way would take half a minute is left out. "
        f"Embeddings are {WIDTH} wide, SmolLM2's, and hide nothing."
    ),
    steps=steps,
    sheets=sheets,
    facts=(
        Fact(
            f"A token at one bit on the cable, in a prompt of {PROMPT}, all headers included",
            "bytes up a token",
            private(1),
            {"prompt tokens": PROMPT, "streams": 1, "TLS": tls(False)},
        ),
        Fact(
            "First token after such a prompt over 64 kbit/s, without the model's time",
            "first token",
            private(1),
            {"TLS": tls(False), LINK: 64.0},
        ),
    ),
    rounds=ROUNDS,
    refused=refused,
    tables=(
        Table(
            "Bytes from the device, a token of the prompt", ("prompt tokens", "streams", "TLS"), ("bytes up a token",)
        ),
        Table(
            "Bytes to the device, a prompt whose answer is one token",
            ("prompt tokens", "streams", "TLS"),
            ("bytes down a prompt",),
        ),
        Table(
            "Bytes of a new connection that carries one token each way",
            ("TLS",),
            ("bytes up, new connection", "bytes down, new connection"),
        ),
        Table(f"Time to first token of {PROMPT} tokens, by link", (LINK, "TLS"), ("first token",)),
        Table(
            f"Time to first token of {PROMPT} tokens over a link without a bound", ("TLS",), ("first token, unshaped",)
        ),
    ),
    plots=(
        Plot(
            "Bytes up a token, by prompt length",
            "bytes up a token",
            "prompt tokens",
            where={"streams": 1, "TLS": tls(False)},
        ),
        Plot("Time to first token, by link", "first token", LINK, where={"TLS": tls(False)}),
    ),
)
