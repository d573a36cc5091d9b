"""`python -m benchmarks.timing [--repeats N] [--json OUT]`: does the time that a device takes tell of what is private?

Each stage of a prompt's way out is timed on one prompt over and over and on prompts drawn at random, all of the same
number of tokens, in random order; Welch's t-test says whether the two differ (dudect: Reparaz, Balasch, Verbauwhede
2017). Long times, which are the machine's, are cut off at several percentiles, and the largest |t| counts. Beside each
difference stands what it drowns in: the spread of the stage's own times, of a prompt's whole way to its bytes, ledger
included, and of a round trip over the loopback interface, which is steadier than any network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arrivals import arrivals
from benchmarks.leak import Leak, compare, timed
from benchmarks.timing_subject import MU, TOKENS, Subject
from benchmarks.wire import NO_LIMITS
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.message import Message
from del_client.policy import Policy
from del_client.protection.placeholders import Placeholders
from del_client.query import GenerationOptions, Query
from del_client.transport.messages import requests
from del_codec.bitpack import pack
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.randomize import randomize
from del_server.evaluation.markdown import markdown_table

REPEATS, PATH_REPEATS = 20_000, 2_000
BITS = (1, 3, 8)
JITTER_CROP = 90
PIECE_BYTES = 1024  # a message's room, so that a prompt leaves in several


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
