"""Kill a sending device at random points, again and again, and compare its ledger with what a recorder received.

    python -m benchmarks.ledger_kills --queries 500

A child process asks the gate for one query's bits after another and sends each, as its transport would, to a recorder,
this process; it is killed with SIGKILL after a random time and started anew on the same ledger. After every kill the
ledger must hold every query that was received and at most one more for each kill. Prints what happened as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Policy
from del_client.report import release_of
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.spec import CodecSpec
from del_codec.table import LatentTable

# A life lasts until so many queries were received, fewer than this, and then up to so many seconds more.
MOST_QUERIES, LONGEST_WAIT = 3, 0.03
# Where disks are quick a life has many queries; there is a kill for every so many all the same.
QUERIES_A_KILL = 5
DIM, VOCABULARY, MU = 16, 300, 5


def tiny_table() -> LatentTable:
    """A codec of no model."""
    spec = CodecSpec("tiny", "0" * 64, DIM, VOCABULARY, 32, "0" * 64, "", 1000, 40_000)
    latents = np.random.default_rng(0).integers(-127, 128, (VOCABULARY, DIM)).astype(np.int8)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, np.ones(VOCABULARY, dtype=np.uint32)))


def spans_of(conversation: str) -> list[Span]:
    """A query's private words, which its name decides."""
    draw = random.Random(conversation)
    return [Span(tuple(draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 40))), private=True, message=0)]


def send_until_killed(path: Path, table: LatentTable, life: int, recorder: int) -> None:
    """What the child does."""
    setting = NoiseSetting.from_mu(MU, DIM, 1)
    gate = Gate(Policy(), Ledger(path), "recorder")
    for number in itertools.count():
        name = f"{life}-{number}"
        (segment,) = gate.release(table, spans_of(name), setting, name).segments
        assert isinstance(segment, PrivateSegment)
        os.write(recorder, json.dumps([name, segment.tokens, segment.payload.hex()]).encode() + b"\n")


def live(path: Path, table: LatentTable, life: int, draw: random.Random) -> list[tuple[str, int, str]]:
    """One life of the child, of a random length, and what the recorder received in it."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            send_until_killed(path, table, life, send)
        finally:
            os._exit(1)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        lines = [pipe.readline() for _ in range(draw.randrange(MOST_QUERIES))]
        time.sleep(draw.uniform(0, LONGEST_WAIT))
        os.kill(child, signal.SIGKILL)
        lines += pipe.readlines()
    _, status = os.waitpid(child, 0)
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError(f"the child ended by itself (status {status})")
    return [tuple(json.loads(line)) for line in lines]


def charged(path: Path) -> dict[str, int]:
    """Draws charged, by query."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT conversation, sum(draws) FROM releases GROUP BY conversation").fetchall()
    database.close()
    return dict(rows)


def run(queries: int, seed: int) -> dict[str, int]:
    """Kill until that many queries were received, in lives enough: how many were, kills, and queries charged but not
    received.

    Raises RuntimeError as soon as the ledger holds less than what was received, or more than one query a kill above it.
    """
    table, draw, kills = tiny_table(), random.Random(seed), 0
    received: dict[str, tuple[int, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        while len(received) < queries or kills * QUERIES_A_KILL < queries:
            life = live(path, table, kills, draw)
            kills += 1
            received |= {name: (tokens, payload) for name, tokens, payload in life}
            with Ledger(path):
                ledger = charged(path)
            missing = {name for name, (tokens, _) in received.items() if ledger.get(name) != DIM * tokens}
            above = len(ledger) - len(received)
            if missing or above > kills:
                raise RuntimeError(f"after {kills} kills: {sorted(missing)} not charged, {above} charged and not sent")
        check_totals(path, table, received, sum(ledger.values()))
    return {"queries": len(received), "kills": kills, "charged": len(ledger), "above": above}


def check_totals(path: Path, table: LatentTable, received: dict[str, tuple[int, str]], draws: int) -> None:
    """Raise RuntimeError unless the totals that limits go by are right, and a retry repeats every query's bits."""
    setting = NoiseSetting.from_mu(MU, DIM, 1)
    with Ledger(path) as ledger:
        with ledger.reading() as entries:
            day = sum(one.n_draws for one in entries.spent("day", entries.day).past)
            conversations = {name: entries.spent("conversation", name).past for name in received}
        if day != draws:
            raise RuntimeError(f"the day's total is {day} draws, the releases' {draws}")
        if any(conversations[name] != (release_of(table, setting, received[name][0]),) for name in received):
            raise RuntimeError("a conversation's total is not its query's")
        gate = Gate(Policy(), ledger, "recorder")
        for name, (_, payload) in received.items():
            (repeated,) = gate.release(table, spans_of(name), setting, name).segments
            if not isinstance(repeated, PrivateSegment) or repeated.payload.hex() != payload:
                raise RuntimeError("a retry after the kills sent other bits")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=500, help="received before it ends (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of death (0)")
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.queries, arguments.seed)))


if __name__ == "__main__":
    main()
