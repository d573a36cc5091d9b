"""`python -m benchmarks.timing [--repeats N] [--json OUT]`: does the time that a device takes tell of what is private?

Each stage of a prompt's way out is timed on one prompt over and over and on prompts drawn at random, all of the same
number of tokens, in random order; Welch's t-test says whether the two differ (dudect: Reparaz, Balasch, Verbauwhede
2017). Long times, which are the machine's, are cut off at several percentiles, and the largest |t| counts. Beside each
difference stands what it drowns in: the spread of the stage's own times, of a prompt's whole way to its bytes, ledger
included, and of a round trip over the loopback interface, which is steadier than any network.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks.arrivals import arrivals
from benchmarks.wire import NO_LIMITS
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.message import Message
from del_client.policy import Kind, Policy
from del_client.prompt import PromptReader
from del_client.protection.detectors import detectors_for
from del_client.protection.patterns import BUILT_IN
from del_client.protection.placeholders import Placeholders
from del_client.protection.protector import Protector
from del_client.query import GenerationOptions, Query
from del_client.transport.messages import requests
from del_codec.bitpack import pack
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
from del_codec.shipped import DEVICE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.table import LatentTable
from del_server.evaluation.markdown import markdown_table

TOKENS, MU, REPEATS, PATH_REPEATS = 64, 8.0, 20_000, 2_000
BITS = (1, 3, 8)
CROPS = (10, 25, 50, 75, 90, 95)  # percentiles above which times are left out
TELLING = 4.5  # |t| from which dudect calls a leak
JITTER_CROP = 90
WARM_UP = 20
PIECE_BYTES = 1024  # a message's room, so that a prompt leaves in several
WORDS = ("README.md", "docs/privacy.md", "docs/wire-format.md", "docs/client.md", "docs/ledger.md", "docs/policy.md")

Input = TypeVar("Input")
Make = Callable[[], tuple[Input, Input]]  # one fixed, one drawn at random
Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int8]
Levels = npt.NDArray[np.uint8]
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leak:
    """Nanoseconds a prompt. difference: random less fixed, with its standard error; t: at `crop`, where |t| is largest.

    spread: standard deviation of what the crop leaves. observations: of each kind, that t would come to TELLING.
    """

    stage: str
    repeats: int
    t: float
    crop: int
    difference: float
    error: float
    spread: float
    observations: float

    @property
    def tells(self) -> bool:
        """Whether the stage's time depends on what is private."""
        return abs(self.t) >= TELLING

    def observations_within(self, jitter: float) -> float:
        """The same for who sees the stage's time with a jitter of so many nanoseconds on top."""
        return _observations(self.difference, float(np.hypot(self.spread, jitter)))


def compare(stage: str, clock: Callable[[Input], float], make: Make[Input], repeats: int) -> Leak:
    """Have a clock, in ns, run on a fixed and on a random input, in random order.

    Both are made anew before either is timed, or what making leaves in the caches would tell them apart.
    """
    kinds = np.unpackbits(np.frombuffer(os.urandom(-(-repeats // 8)), np.uint8))[:repeats].astype(bool)
    times = np.zeros(repeats)
    for _ in range(WARM_UP):
        for given in make():
            clock(given)
    with _no_collection():
        for at, kind in enumerate(tqdm(kinds.tolist(), desc=stage, mininterval=5)):
            times[at] = clock(make()[kind])
    return welch(stage, times[~kinds], times[kinds])


def timed(work: Callable[[Input], object]) -> Callable[[Input], float]:
    """The clock of a piece of work."""

    def clock(given: Input) -> float:
        start = time.perf_counter_ns()
        work(given)
        return time.perf_counter_ns() - start

    return clock


def welch(stage: str, fixed: Times, drawn: Times) -> Leak:
    """Welch's t at the crop where it is largest."""
    found = []
    for crop in CROPS:
        most = np.percentile(np.concatenate([fixed, drawn]), crop)
        a, b = fixed[fixed <= most], drawn[drawn <= most]
        if min(len(a), len(b)) < 2:
            continue
        error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
        difference, spread = float(b.mean() - a.mean()), float(np.concatenate([a - a.mean(), b - b.mean()]).std())
        t = difference / error if error else 0.0
        needed = _observations(difference, spread)
        found.append(Leak(stage, len(fixed) + len(drawn), t, crop, difference, error, spread, needed))
    return max(found, key=lambda leak: abs(leak.t))


def _observations(difference: float, spread: float) -> float:
    return 2 * (TELLING * spread / difference) ** 2 if difference else float("inf")


def in_any_order(fixed: Callable[[], Input], drawn: Callable[[], Input]) -> tuple[Input, Input]:
    """Both, made in random order: what is made last lies elsewhere in memory, and warmer."""
    if random.random() < 0.5:
        first = fixed()
        return first, drawn()
    last = drawn()
    return fixed(), last


class Subject:
    """The shipped codec, public texts, and the two kinds of prompts."""

    def __init__(self) -> None:
        folder = codec_folders()[0]
        self.table = LatentTable.load(folder / DEVICE_FILE)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self.reader = PromptReader(self.tokenizer, None)
        kinds = {name: Kind(name, "private", mu=MU) for name in BUILT_IN}
        self.protector = Protector(kinds, detectors_for(kinds), self.table.spec.dim)
        self.texts = list(self._windows())
        self._rng = np.random.default_rng(0)
        self._fixed = self._rng.integers(0, self.table.spec.vocabulary, TOKENS)

    def ids(self) -> tuple[Ids, Ids]:
        """Token ids [T]."""
        drawn = self._rng.integers(0, self.table.spec.vocabulary, TOKENS)
        return in_any_order(self._fixed.copy, drawn.copy)

    def one_token(self) -> tuple[Ids, Ids]:
        """Token ids [T], the fixed ones all alike: as far from random as a prompt can be."""
        alike, drawn = np.full(TOKENS, self._fixed[0]), self.ids()[1]
        return in_any_order(alike.copy, drawn.copy)

    def rows(self) -> tuple[Rows, Rows]:
        """Latents [T, d]."""
        fixed, drawn = self.ids()
        return in_any_order(lambda: self.table.rows(fixed), lambda: self.table.rows(drawn))

    def corners(self) -> tuple[Rows, Rows]:
        """Latents [T, d], the fixed ones all zero, the others all at the corners of the box."""
        signs = (self._rng.integers(0, 2, (TOKENS, self.table.spec.dim)) * 2 - 1).astype(np.int8)
        return in_any_order(lambda: 0 * signs, lambda: 127 * signs)

    def levels(self, setting: NoiseSetting) -> tuple[Levels, Levels]:
        """Levels [T, d]."""
        fixed, drawn = self.rows()
        return in_any_order(lambda: randomize(fixed, setting), lambda: randomize(drawn, setting))

    def segments(self, setting: NoiseSetting) -> tuple[PrivateSegment, PrivateSegment]:
        """A segment each."""
        fixed, drawn = self.ids()
        return in_any_order(lambda: encode(self.table, fixed, setting), lambda: encode(self.table, drawn, setting))

    def text(self) -> tuple[str, str]:
        """A text of T tokens each."""
        fixed, drawn = self.texts[0], self.texts[random.randrange(1, len(self.texts))]
        return in_any_order(lambda: fixed[:1] + fixed[1:], lambda: drawn[:1] + drawn[1:])  # strings of their own

    def numbers(self) -> tuple[str, str]:
        """A text of words, and one of as many tokens that is made of digits, as numbers of three."""
        digits = "".join(random.choice("0123456789") if at % 4 < 3 else " " for at in range(2 * TOKENS))
        end = self.tokenizer.encode(digits, add_special_tokens=False).offsets[TOKENS - 1][1]
        return self.text()[0], digits[:end]

    def _windows(self) -> Iterator[str]:
        """Pieces of public text that are T tokens by themselves, with nothing in them that a detector finds."""
        root = Path(__file__).parents[1]
        for name in WORDS:
            text = (root / name).read_text()
            offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
            for start in range(0, len(offsets) - TOKENS, 16):
                piece = text[offsets[start][0] : offsets[start + TOKENS - 1][1]]
                whole = len(self.tokenizer.encode(piece, add_special_tokens=False).ids) == TOKENS
                if whole and "{{" not in piece and not self.protector.find(piece)[1]:
                    yield piece


def stages(subject: Subject, repeats: int) -> Iterator[Leak]:
    """From the table to the packed bits, and the way of the text before it."""
    table, dim = subject.table, subject.table.spec.dim
    settings = {bits: NoiseSetting.from_mu(MU, dim, bits) for bits in BITS}
    yield compare("lookup", timed(table.rows), subject.ids, repeats)
    yield compare("lookup, one token", timed(table.rows), subject.one_token, repeats)
    for bits, setting in settings.items():
        draw = timed(partial(randomize, setting=setting))
        yield compare(f"draw, {bits} bits", draw, subject.rows, repeats)
        yield compare(f"draw, {bits} bits, middle and corners", draw, subject.corners, repeats)
    for bits, setting in settings.items():
        yield compare(f"pack, {bits} bits", timed(partial(pack, bits=bits)), partial(subject.levels, setting), repeats)
    for bits, setting in settings.items():
        encoding = timed(lambda ids, setting=setting: encode(table, ids, setting))
        yield compare(f"encode, {bits} bits", encoding, subject.ids, repeats)
    tokenize = partial(subject.tokenizer.encode, add_special_tokens=False)
    yield compare("tokenizer", timed(tokenize), subject.text, repeats)
    yield compare("detectors", timed(subject.protector.find), subject.text, repeats)
    yield compare("detectors, words and numbers", timed(subject.protector.find), subject.numbers, repeats)


def pauses(subject: Subject, repeats: int) -> Leak:
    """From a prompt's first message to its last, of several, as they reach a server."""
    table, options = subject.table, GenerationOptions(max_new_tokens=1)
    setting = NoiseSetting.from_mu(MU, table.spec.dim, max(BITS))
    with arrivals(replace(NO_LIMITS, message_bytes=PIECE_BYTES)) as send:

        def clock(segment: PrivateSegment) -> float:
            came = send(Query(table.fingerprint, (segment,), options))
            return came[-1] - came[0]

        return compare("pauses between messages", clock, partial(subject.segments, setting), repeats)


def path(subject: Subject, repeats: int) -> Leak:
    """All that happens between a text and its bytes, the ledger's charge on the disk included."""
    table = subject.table
    setting = NoiseSetting.from_mu(MU, table.spec.dim, 1)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite3") as ledger:
        gate = Gate(Policy(), ledger, "nobody")

        def work(text: str) -> object:
            message = subject.protector.protect(Message("user", text), Placeholders())
            prepared = gate.release(table, subject.reader.text(message), setting, str(next(numbers)))
            query = Query(table.fingerprint, prepared.segments, GenerationOptions(max_new_tokens=1))
            return [one.SerializeToString() for one in requests(1, query, 0)]

        return compare("text to bytes", timed(work), subject.text, repeats)


def loopback_jitter(repeats: int) -> float:
    """Standard deviation of a round trip of a prompt's bytes over the loopback interface, without its longest tenth."""
    payload = bytes(TOKENS * 8)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_echo, args=(listener, len(payload)), daemon=True).start()
        with socket.create_connection(listener.getsockname()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            times = np.array([_round_trip(connection, payload) for _ in range(repeats)])
    return float(times[times <= np.percentile(times, JITTER_CROP)].std())


def _echo(listener: socket.socket, size: int) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(size, socket.MSG_WAITALL):
            connection.sendall(data)


def _round_trip(connection: socket.socket, payload: bytes) -> float:
    start = time.perf_counter_ns()
    connection.sendall(payload)
    connection.recv(len(payload), socket.MSG_WAITALL)
    return time.perf_counter_ns() - start


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def table(facts: dict[str, Any]) -> str:
    """A line for each stage, and what the whole way's spread does to the first; `facts` as the JSON has them."""
    rows = []
    for leak in (Leak(**one) for one in facts["stages"]):
        needed = [leak.observations, leak.observations_within(facts["loopback_jitter"])]
        rows.append(
            (
                leak.stage,
                f"{leak.t:.1f}",
                f"{leak.difference:.0f} ± {leak.error:.0f}",
                f"{leak.difference / facts['tokens']:.1f}",
                f"{leak.spread:.0f}",
                *(f"{max(count, 2):.2g}" if leak.tells else "" for count in needed),
            )
        )
    columns = ("stage", "t", "ns a prompt", "ns a token", "spread, ns", "observations", "behind the loopback's jitter")
    first, whole = (Leak(**facts["stages"][at]) for at in (0, -1))
    hidden = first.observations_within(whole.spread)
    told = (
        f"The loopback interface's jitter: {facts['loopback_jitter']:.0f} ns. Behind the spread of `{whole.stage}` it "
        f"takes {hidden:.1e} timings of each of two prompts to tell `{first.stage}`."
    )
    return f"{markdown_table(columns, rows)}\n\n{told}"


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="of each stage (default: %(default)s)")
    parser.add_argument("--path-repeats", type=int, default=PATH_REPEATS, help="of the last two (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything found to OUT")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    subject = Subject()
    jitter = loopback_jitter(arguments.repeats)
    few = arguments.path_repeats
    found = [*stages(subject, arguments.repeats), pauses(subject, few), path(subject, few)]
    facts = {"tokens": TOKENS, "mu": MU, "loopback_jitter": jitter, "stages": [asdict(leak) for leak in found]}
    print(f"{TOKENS} tokens, mu {MU:g}; loopback jitter {jitter:.0f} ns\n\n{table(facts)}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
