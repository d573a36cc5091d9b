"""What a prompt takes on a cable, counted by the kernel outside of both processes, and how soon its answer begins.

Two network namespaces, a stub engine behind the real service in one, a device in the other. Needs root and iproute2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from benchmarks.cable import NARROW, SERVER, Cable, refused
from benchmarks.carried import EMBEDDINGS, PEERS, WIDTH, private
from benchmarks.report.results import Recorder
from benchmarks.section import Plot, Section, Settings, Step, Table
from benchmarks.server_process import started

UNSHAPED = "unshaped"
RATES = {NARROW: 64e3, "1mbit": 1e6, "20mbit": 20e6, UNSHAPED: 0.0}
PROMPT = 256
BITS = (1, 2, 3, 4, 5, 6, 7, 8)
LENGTHS = (1, 16, 64, 256, 1024, 4096)
PEER = "float16 embeddings"
# Of a link's rate, what a prompt may take: the next longer way would take minutes.
LONGEST_SECONDS = 25.0
SETTLE_SECONDS = 0.3


class Line:
    """A cable, a server and a device at its ends."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Line:
        self._cable = self._stack.enter_context(Cable(""))
        within = self._cable.within(self._cable.server)
        server = self._stack.enter_context(started("benchmarks.stub", "--host", SERVER, within=within))
        command = self._cable.within(self._cable.device, sys.executable, "-m", "benchmarks.carried", server.address)
        self._device = self._stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        self._stack.callback(self._device.kill)
        self._device.stdout.readline()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def shape(self, rate: str) -> None:
        """One of RATES."""
        self._cable.shape("" if rate == UNSHAPED else rate)

    def ask(self, way: str, tokens: int, streams: int = 1) -> tuple[list[float], int, int]:
        """Seconds to the first token of so many prompts at once; bytes of frames up and down, all of them together."""
        up, down = self._cable.carried()
        self._device.stdin.write(json.dumps({"way": way, "tokens": tokens, "streams": streams}) + "\n")
        self._device.stdin.flush()
        firsts = json.loads(self._device.stdout.readline())
        time.sleep(SETTLE_SECONDS)  # what is still on its way belongs to these
        up_after, down_after = self._cable.carried()
        return firsts, up_after - up, down_after - down


def bytes_a_token(line: Line, way: str, tokens: int, streams: int, record: Recorder) -> None:
    """From the device, headers of Ethernet, IP and TCP and acknowledgements included."""
    _, up, down = line.ask(way, tokens, streams)
    at = {"prompt tokens": tokens, "streams": streams}
    peer = "" if way == PEER else PEER
    record.add("bytes up a token", up / (tokens * streams), "B", "lower", way, at, peer)
    record.add("bytes down a prompt", down / streams, "B", "lower", way, at)


def first_token(line: Line, rate: str, way: str, record: Recorder) -> None:
    """Time to first token of PROMPT tokens over a shaped cable."""
    line.shape(rate)
    (first,), _, _ = line.ask(way, PROMPT)
    record.add("first token", first, "s", "lower", way, {"link": rate}, "" if way == PEER else PEER)


def payload_bytes(way: str, tokens: int) -> float:
    """What a prompt's content takes, roughly."""
    if way.startswith("DEL"):
        return 8 * tokens * int(way.split()[1])
    sizes = dict(zip(EMBEDDINGS, (2304, 1152, 578), strict=True))
    return tokens * sizes.get(way, 1536 if way.startswith("JSON") else 4)


def bearable(way: str, rate: str) -> bool:
    """Whether a prompt passes soon enough to be measured."""
    return not RATES[rate] or 8 * payload_bytes(way, PROMPT) / RATES[rate] < LONGEST_SECONDS


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """Bytes on a cable without a bound; then the first token over each rate, where a prompt takes bearable time."""
    if reason := refused():
        raise SystemExit(f"the wire's benchmark needs network namespaces: {reason}")
    quick = settings.quick
    ways = [*(private(bits) for bits in ((1, 4, 8) if quick else BITS)), *PEERS]
    places = dict.fromkeys([*((length, 1) for length in ((1, 64) if quick else LENGTHS)), (PROMPT, 1), (PROMPT, 16)])
    rates = (NARROW, "20mbit", UNSHAPED) if quick else tuple(RATES)
    with Line() as line:
        counted = [
            Step(
                f"bytes: {way}, {tokens} tokens, {streams} at once", partial(bytes_a_token, line, way, tokens, streams)
            )
            for way in ways
            for tokens, streams in places
        ]
        begun = [
            Step(f"{way} at {rate}", partial(first_token, line, rate, way))
            for rate in rates
            for _ in range(1 if quick else 5)
            for way in ways
            if bearable(way, rate)
        ]
        yield [*counted * (1 if quick else 3), *begun]


SECTION = Section(
    group="wire",
    title="The wire",
    about=(
        "Frames on a cable between two network namespaces, counted by the kernel: Ethernet, IP, TCP, HTTP/2 and gRPC "
        "are all in it. Every way goes through the same service on a warm connection, an answer of one token, a stub "
        f"for an engine. `first token` is of {PROMPT} tokens; it includes what the server's decoder computes, which "
        "private prompts alone need, and nothing of what a server does with embeddings or text. A link on which a "
        f"way would take longer than {LONGEST_SECONDS:g} s is left out. Embeddings are {WIDTH} wide, SmolLM2's, and "
        "hide nothing."
    ),
    steps=steps,
    tables=(
        Table("Bytes from the device, a token of the prompt", ("prompt tokens", "streams"), ("bytes up a token",)),
        Table(
            "Bytes to the device, a prompt whose answer is one token",
            ("prompt tokens", "streams"),
            ("bytes down a prompt",),
        ),
        Table(f"Time to first token of {PROMPT} tokens, by link", ("link",), ("first token",)),
    ),
    plots=(Plot("Bytes up a token, by prompt length", "bytes up a token", "prompt tokens", where={"streams": 1}),),
)
