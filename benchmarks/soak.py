"""The soak: a server and its devices under mixed load, with cancels and faults, for an hour; what they come to hold.

The load pauses again and again until every visit has ended; what server and devices hold then is read, each in its
process. What grows shows in the line through the second half's readings.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.held import UNITS, drift, held
from benchmarks.report.results import Recorder, Result, Run
from benchmarks.report.tables import number, quantity
from benchmarks.section import Plot, Section, Settings, Sheet, Step, Table
from benchmarks.server_process import ServerProcess, started
from benchmarks.soak_visits import STUBBORN, Visits, known_prompts
from del_client import AsyncClient
from del_client.codec_cache import CodecCache
from del_client.ledger import Ledger
from del_codec.shipped import CHAT_TEMPLATE_FILE, DEVICE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.table import LatentTable

MOST_ROUNDS, LEAST_ROUNDS = 60, 8
MOST_AT_ONCE = 24
CLIENTS = 2
RESTS, REST_SECONDS = 100, 0.2
PROBE_SECONDS = 30.0
SERVER, DEVICES = "server", "devices"
SERVER_UNITS = {"places taken": "", "slots taken": "", "keys and values promised": "tokens", "keys and values": "MiB"}
LEDGER_LOCKS = "ledger locks"
LEVEL, GROWTH, BOUNDS = "level", "growth in an hour", ("estimate", "low", "high")
HELD = "Held in the pauses of the second half"
UNCHARGED = ("private tokens sent and not charged", "private tokens charged in excess of what was dropped")


@dataclass(frozen=True, slots=True)
class Ground:
    """A model and its codec's folder, and how many visits a second they can take. seed: of what the devices do."""

    model: str
    codec: Path
    rate: float
    seed: int = 0


class Soak:
    """One server, its devices, and what was read of both."""

    def __init__(self, server: ServerProcess, told: Path, folder: Path, ground: Ground) -> None:
        self._server, self._told, self._ground = server, told, ground
        self._draw = random.Random(ground.seed)
        self._ledger = folder / "ledger.sqlite3"
        files = {"tokenizer": ground.codec / TOKENIZER_FILE, "chat_template": ground.codec / CHAT_TEMPLATE_FILE}
        places = {"cache": CodecCache(folder), "ledger": self._ledger}
        self._clients = [AsyncClient(server.address, patience=STUBBORN, **files, **places) for _ in range(CLIENTS)]
        known = known_prompts(LatentTable.load(ground.codec / DEVICE_FILE), self._draw)
        self.visits = Visits(server.address, known, self._clients, self._draw)
        self._stack = AsyncExitStack()
        self._hours: list[float] = []
        self._read: dict[tuple[str, str], list[float]] = {}
        self._began = self._cpu = 0.0
        self._ended: dict[str, float] = {}

    async def begin(self) -> None:
        """Make the ledger, connect the clients and learn the answers."""
        Ledger(self._ledger).close()
        for client in self._clients:
            await self._stack.enter_async_context(client)
        await self.visits.learn()
        self._began, self._cpu = time.monotonic(), self._cpu_seconds()

    async def close(self) -> None:
        """Disconnect the clients."""
        await self._stack.aclose()

    async def round(self, number: int, seconds: float) -> None:
        """Visits at random until the round's end is due, or for half of it at least; then a rest, and what is held."""
        visits = set[asyncio.Task[None]]()
        due = max(self._began + number * seconds, time.monotonic() + seconds / 2)
        while (now := time.monotonic()) < due:
            await asyncio.sleep(min(self._draw.expovariate(self._ground.rate), due - now))
            visit = asyncio.create_task(self.visits.one())
            visits.add(visit)
            visit.add_done_callback(visits.discard)
            while len(visits) >= MOST_AT_ONCE:
                await asyncio.wait(visits, return_when=asyncio.FIRST_COMPLETED)
        while visits:
            await asyncio.gather(*visits)
        await self._rest()

    async def _rest(self) -> None:
        """Read once nothing is under way any more, or after RESTS readings, whatever they say."""
        before: dict[str, Any] = {}
        for _ in range(RESTS):
            await asyncio.sleep(REST_SECONDS)
            now = {**await self._probe(), **{("devices", name): value for name, value in held().items()}}
            settled = [value for key, value in now.items() if key not in _MOVING]
            if settled == [value for key, value in before.items() if key not in _MOVING] and not now["slots taken"]:
                break
            before = now
        self._hours.append((time.monotonic() - self._began) / 3600)
        self._ended = now["ended"]
        for name in (*UNITS, *SERVER_UNITS):
            self._read.setdefault((SERVER, name), []).append(now[name])
        for name in UNITS:
            self._read.setdefault((DEVICES, name), []).append(now["devices", name])
        self._read.setdefault((DEVICES, LEDGER_LOCKS), []).append(self._ledger_locks())

    async def _probe(self) -> dict[Any, Any]:
        """What the server says of itself. Raises RuntimeError if it says nothing."""
        said = self._lines()
        os.kill(self._server.pid, signal.SIGUSR1)
        deadline = time.monotonic() + PROBE_SECONDS
        while self._lines() == said:
            if time.monotonic() > deadline:
                raise RuntimeError("the server tells nothing any more")
            await asyncio.sleep(0.02)
        found: dict[Any, Any] = json.loads(self._told.read_text().splitlines()[-1])
        return found

    def _lines(self) -> int:
        return self._told.read_bytes().count(b"\n") if self._told.exists() else 0

    def _ledger_locks(self) -> float:
        """1 if somebody holds the ledger, though nobody writes."""
        other = sqlite3.connect(self._ledger, timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return 1.0
        finally:
            other.close()
        return 0.0

    def _cpu_seconds(self) -> float:
        """Of the server and of the devices."""
        return self._server.cpu_seconds() + sum(os.times()[:2])

    def reckon(self, record: Recorder) -> None:
        """Everything that was counted and read."""
        visits, seconds = self.visits, time.monotonic() - self._began
        for (kind, outcome), count in sorted(visits.ended.items()):
            record.add("visits", count, "", "neither", kind, {"ended": outcome})
        with sqlite3.connect(self._ledger) as database:
            charged = database.execute("SELECT coalesce(sum(tokens), 0) FROM releases").fetchone()[0]
        database.close()
        whole = {
            "visits astray": visits.astray,
            "tokens checked": visits.checked_tokens,
            "private tokens sent": visits.sent_tokens,
            UNCHARGED[0]: max(0, visits.sent_tokens - charged),
            UNCHARGED[1]: max(0, charged - visits.sent_tokens - visits.dropped_tokens),
            "cores busy": (self._cpu_seconds() - self._cpu) / seconds,
        }
        for name, value in whole.items():
            record.add(name, value, "", "neither" if name in _PLAIN else "lower", "all", {})
        for outcome, count in self._ended.items():
            record.add("server's queries", count, "", "neither", SERVER, {"ended": outcome})
        for (way, name), values in self._read.items():
            self._reckon(record, way, name, values)

    def _reckon(self, record: Recorder, way: str, name: str, values: list[float]) -> None:
        unit = {**UNITS, **SERVER_UNITS, LEDGER_LOCKS: ""}[name]
        for hours, value in zip(self._hours, values, strict=True):
            record.add(name, value, unit, "lower", way, {"minute": round(60 * hours, 2)})
        half = len(values) // 2
        found = drift(self._hours[half:], values[half:])
        for bound, value in zip(BOUNDS, (found.slope, found.low, found.high), strict=True):
            record.add(GROWTH, value, unit, "lower", way, {"of": name, "bound": bound})
        record.add(LEVEL, found.level, unit, "lower", way, {"of": name})


# What goes up and down by itself, so that rest is not told by it.
_RESTLESS = ("resident memory", "native memory", "Python blocks")
_MOVING = (*_RESTLESS, *((DEVICES, name) for name in _RESTLESS))
_PLAIN = ("tokens checked", "private tokens sent", "cores busy")


@contextmanager
def soaking(minutes: float, ground: Ground) -> Iterator[tuple[Soak, list[Step]]]:
    """A server, its devices, and the rounds that they are left to."""
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(20 * minutes)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        told = folder / "told"
        arguments = (str(told), ground.model, str(ground.codec))
        server = stack.enter_context(started("benchmarks.soak_server", *arguments))
        runner = stack.enter_context(asyncio.Runner())
        soak = Soak(server, told, folder, ground)

        def in_loop(work: Any, *given: Any) -> Any:
            return lambda _: runner.run(work(*given))

        stack.callback(lambda: runner.run(soak.close()))
        steps = [
            Step(f"round {number} of {rounds}", in_loop(soak.round, number, 60 * minutes / rounds))
            for number in range(1, rounds + 1)
        ]
        yield soak, [Step("undisturbed answers", in_loop(soak.begin)), *steps, Step("reckoning", soak.reckon)]


@contextmanager
def steps(settings: Settings) -> Iterator[list[Step]]:
    """As the command line has it."""
    minutes = min(settings.minutes, 0.5) if settings.quick else settings.minutes
    ground = Ground(settings.model, settings.codec or codec_folders()[0], settings.rate)
    with soaking(minutes, ground) as (_, found):
        yield found


def sheets(run: Run) -> list[Sheet]:
    """Levels and growth of both sides."""
    found = {(each.name, each.way, *each.at.values()): each for each in run.of("soak")}
    names = dict.fromkeys(at[2] for at in found if at[0] == LEVEL)
    rows = [(str(name), *(cell for way in (SERVER, DEVICES) for cell in _held(found, way, name))) for name in names]
    header = ("", *(cell for way in (SERVER, DEVICES) for cell in (way, "an hour more")))
    return [Sheet(HELD, "", [header, *rows])] if rows else []


def _held(found: dict[tuple[Any, ...], Result], way: str, name: object) -> tuple[str, str]:
    """A level, and what is more of it in an hour, with the ends of its interval."""
    level = found.get((LEVEL, way, name))
    if level is None:
        return "", ""
    more, low, high = (found[GROWTH, way, name, bound] for bound in BOUNDS)
    between = f" ({number(low.median, more)} to {number(high.median, more)})" if low.median < high.median else ""
    return quantity(level.median, level.unit), f"{quantity(more.median, more.unit)}{between}"


SECTION = Section(
    group="soak",
    title="Soak",
    about=(
        "A server and its devices, each in a process of its own, under mixed load: answers, questions, cancels, "
        "queries that are none, connections that break, stall, say nothing or read nothing. Answers are compared, "
        "token by token, with those that the same server gave before it had anything else to do. `astray` is a visit "
        "that ended otherwise than its kind may, or not at all. `an hour more` is the line of least squares through "
        "what was held in the pauses of the second half, with a 95 % interval."
    ),
    steps=steps,
    sheets=sheets,
    tables=(
        Table("How visits ended", ("ended",), ("visits",)),
        Table("How the server's queries ended", ("ended",), ("server's queries",)),
        Table(
            "All together", (), ("visits astray", "tokens checked", "private tokens sent and not charged", "cores busy")
        ),
    ),
    plots=(Plot("Memory held at rest", "resident memory", "minute"),),
)
