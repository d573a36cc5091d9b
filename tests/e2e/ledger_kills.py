"""Kills a sending device at random points, again and again, and compares its ledger with what a recorder received.

    python tests/e2e/ledger_kills.py --queries 500

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

LONGEST_LIFE = 0.06


def tiny_table() -> LatentTable:
    spec = CodecSpec("tiny", "0" * 64, 16, 300, 32, "0" * 64, "", 1000, 40_000)
    latents = np.random.default_rng(0).integers(-127, 128, (300, 16)).astype(np.int8)
    return LatentTable.from_bytes(LatentTable.to_bytes(spec, latents, np.ones(300, dtype=np.uint32)))


def spans_of(conversation: str) -> list[Span]:
    """A query's private words, which its name decides."""
    draw = random.Random(conversation)
    return [Span(tuple(draw.randrange(300) for _ in range(draw.randrange(1, 40))), private=True, message=0)]


def send_until_killed(path: Path, table: LatentTable, life: int, recorder: int) -> None:
    """What the child does."""
    setting = NoiseSetting.from_mu(5, table.spec.dim, 1)
    gate = Gate(Policy(), Ledger(path), "recorder")
    for number in itertools.count():
        name = f"{life}-{number}"
        (segment,) = gate.release(table, spans_of(name), setting, name).segments
        assert isinstance(segment, PrivateSegment)
        os.write(recorder, json.dumps([name, segment.tokens, segment.payload.hex()]).encode() + b"\n")


def live(path: Path, table: LatentTable, life: int, seconds: float) -> list[tuple[str, int, str]]:
    """One life of the child, and what the recorder received in it."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            send_until_killed(path, table, life, send)
        finally:
            os._exit(1)
    os.close(send)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(receive, "rb") as pipe:
        received = [tuple(json.loads(line)) for line in pipe]
    _, status = os.waitpid(child, 0)
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"the child ended by itself (status {status})")
    return received


def charged(path: Path) -> dict[str, int]:
    """Draws charged, by query."""
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT conversation, sum(draws) FROM releases GROUP BY conversation").fetchall()
    database.close()
    return dict(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=500, help="received before it ends")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of death")
    arguments = parser.parse_args()
    table, draw, received, kills = tiny_table(), random.Random(arguments.seed), dict[str, tuple[int, str]](), 0
    setting = NoiseSetting.from_mu(5, table.spec.dim, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        while len(received) < arguments.queries:
            life = live(path, table, kills, draw.uniform(0, LONGEST_LIFE))
            kills += 1
            received |= {name: (tokens, payload) for name, tokens, payload in life}
            if not path.exists() or path.stat().st_size == 0:
                continue  # killed before the ledger was made
            with Ledger(path):
                ledger = charged(path)
            missing = {name for name, (tokens, _) in received.items() if ledger.get(name) != 16 * tokens}
            above = len(ledger) - len(received)
            if missing or above > kills:
                raise SystemExit(f"after {kills} kills: {sorted(missing)} not charged, {above} charged and not sent")
        with Ledger(path) as opened, opened.reading() as entries:
            day = sum(one.n_draws for one in entries.spent("day", entries.day).past)
            conversations = {name: entries.spent("conversation", name).past for name in received}
        if day != sum(ledger.values()):
            raise SystemExit(f"the day's total is {day}, the releases' {sum(ledger.values())}")
        if any(conversations[name] != (release_of(table, setting, received[name][0]),) for name in received):
            raise SystemExit("a conversation's total is not its query's")
        gate = Gate(Policy(), Ledger(path), "recorder")
        repeated = [gate.release(table, spans_of(name), setting, name).segments[0] for name in received]
        if [part.payload.hex() for part in repeated] != [payload for _, payload in received.values()]:
            raise SystemExit("a retry after the kills sent other bits")
    print(json.dumps({"queries": len(received), "kills": kills, "charged": len(ledger), "above": above}))


if __name__ == "__main__":
    main()
