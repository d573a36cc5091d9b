"""A worker that says what can't be, or dies: every answer ends, and the next worker is used."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
from array import array
from dataclasses import replace
from typing import Any

import pytest
import torch
from serving import StartServer
from test_cross_talk import CANARIES, Canary

from del_codec.errors import EngineError, UnavailableError
from del_server.engine.base import Capacity, Load, Sampling
from del_server.engine.process.engine import Patience, ProcessEngine
from del_server.engine.process.frames import Frames
from del_server.engine.process.launch import Launched

CAPACITY = Capacity(64, 4, 100, frozenset(), torch.float32, torch.device("cpu"), 4, 4, 1000, 8)
QUICK = Patience(first_wait=0.01, longest_wait=0.01)
READY = {"say": "ready", "kv_tokens": 1000, "kv_bytes": 0}
STATE = {"say": "state", "ok": True, "detail": "", "fatal": False, "kv_tokens": 0, "kv_bytes": 0}
NOTHING: dict[str, Any] = {"say": "events", "logprobs": [], "ends": [], "errors": []}
TWO = Sampling(2, ignore_eos=True)
NESTED = b"[" * 100_000


class Puppet:
    """A worker whose words a test chooses."""

    pid = 1

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair()
        self._theirs = theirs
        self.gone = asyncio.Event()

    async def begin(self) -> None:
        self.frames = await Frames.over(self._theirs)
        await self.frames.receive()
        for message in (STATE, READY):
            self.frames.send(message)

    def say(self, raw: bytes, payload: bytes = b"") -> None:
        """Bytes where JSON should be."""
        writer = self.frames._writer
        writer.write(len(raw).to_bytes(4, "little") + len(payload).to_bytes(8, "little") + raw + payload)

    def kill(self) -> None:
        self.gone.set()

    async def ended(self) -> None:
        await self.gone.wait()
        await self.close()

    async def close(self) -> None:
        self.frames.close()
        with contextlib.suppress(ConnectionError):
            await self.frames._writer.wait_closed()


class Puppets:
    """Those that an engine launches, one after another, of these kinds in turn, of the last from then on."""

    def __init__(self, *kinds: type[Puppet]) -> None:
        self.launched: asyncio.Queue[Puppet] = asyncio.Queue()
        self._kinds = list(kinds or [Puppet])
        self._beginning = set[asyncio.Task[None]]()

    async def launch(self) -> Launched:
        puppet = (self._kinds.pop(0) if len(self._kinds) > 1 else self._kinds[0])()
        self._beginning.add(asyncio.create_task(puppet.begin()))
        self.launched.put_nowait(puppet)
        return puppet


async def read(generation: Any) -> list[Any]:
    return [event async for event in generation]


def end_of(reason: str) -> dict[str, Any]:
    return {**NOTHING, "ends": [[0, reason, 0.0, 0.0]]}


def text_of(message: object) -> bytes:
    return json.dumps(message).encode()


BAD: dict[str, tuple[bytes, bytes]] = {
    "no JSON": (b"\xff{", b""),
    "nested too deeply": (NESTED, b""),
    "a list": (b"[1]", b""),
    "nothing": (b"null", b""),
    "no kind": (b"{}", b""),
    "a kind that is none": (b'{"say":"more"}', b""),
    "half a number": (text_of(NOTHING), b"\0" * 9),
    "half a pair": (text_of(NOTHING), array("q", [0, 5, 0]).tobytes()),
    "a reason that is none": (text_of(end_of("bored")), b""),
    "an end without times": (text_of({**NOTHING, "ends": [[0, "length"]]}), b""),
    "an error that is none": (text_of({**NOTHING, "errors": [[0, "odd", "x"]]}), b""),
    "a job that is a list": (text_of({**NOTHING, "ends": [[[0], "length", 0.0, 0.0]]}), b""),
    "a scoring without numbers": (b'{"say":"scored","job":1,"scored":{"logprobs":[1]}}', b""),
    "a state that says nothing": (b'{"say":"state"}', b""),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
async def test_what_can_not_be_read_ends_every_answer_and_the_worker(raw: tuple[bytes, bytes]) -> None:
    puppets = Puppets()
    engine = ProcessEngine(CAPACITY, puppets.launch, {"adapters": {}}, QUICK)
    await engine.start()
    first = await puppets.launched.get()
    answer, scoring = engine.submit(torch.zeros(3, 4), TWO), engine.score(torch.zeros(3, 4), [[5], [6]])
    first.say(*raw)
    with pytest.raises(UnavailableError):
        await read(answer)
    with pytest.raises(UnavailableError):
        await scoring.result()
    second = await puppets.launched.get()
    await answering(engine)
    again = engine.submit(torch.zeros(3, 4), TWO)
    second.frames.send({**NOTHING, "ends": [[2, "length", 0.0, 0.0]]}, array("q", [2, 7, 2, 8, 99, 5]).tobytes())
    assert [getattr(event, "token_id", None) for event in await read(again)] == [7, 8, None]
    second.kill()
    await engine.stop()


@pytest.mark.parametrize("raw", [b"\xff", NESTED, b"[]", b"{}", b'{"say":"ready"}', b'{"say":"state"}'])
async def test_a_first_word_that_can_not_be_read_is_an_error_of_ours(raw: bytes) -> None:
    class Odd(Puppet):
        async def begin(self) -> None:
            self.frames = await Frames.over(self._theirs)
            await self.frames.receive()
            self.say(raw)

    puppet = Odd()

    async def launch() -> Launched:
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(puppet.begin()))
        return puppet

    tasks: list[asyncio.Task[None]] = []
    engine = ProcessEngine(CAPACITY, launch, {"adapters": {}}, QUICK)
    with pytest.raises(EngineError):
        await engine.start()


class Mute(Puppet):
    """Takes its order, and says nothing."""

    async def begin(self) -> None:
        self.frames = await Frames.over(self._theirs)
        await self.frames.receive()


class Undead(Puppet):
    """One whose driver holds it fast: told to go, or killed, it stays, and its end of the socket with it."""

    def kill(self) -> None:
        self.killed = True

    async def ended(self) -> None:
        await asyncio.Event().wait()


async def answering(engine: ProcessEngine) -> None:
    """Wait until it takes prompts; the test's own time ends it if it never does."""
    while engine._frames is None or not engine.health().ok:
        await asyncio.sleep(0.001)


async def test_a_worker_that_never_starts_is_given_up() -> None:
    engine = ProcessEngine(CAPACITY, Puppets(Mute).launch, {"adapters": {}}, replace(QUICK, start_seconds=0.01))
    with pytest.raises(EngineError, match=r"did not start in 0\.01 s"):
        await engine.start()


async def test_neither_do_later_ones_hold_the_next_one_up() -> None:
    puppets = Puppets(Puppet, Mute, Mute, Puppet)
    engine = ProcessEngine(CAPACITY, puppets.launch, {"adapters": {}}, QUICK)
    await engine.start()
    first = await puppets.launched.get()
    engine._patience = replace(QUICK, start_seconds=0.05)
    first.say(b"\xff")
    mute = [await puppets.launched.get() for _ in range(2)]
    await answering(engine)
    assert all(each.gone.is_set() for each in (first, *mute))
    (await puppets.launched.get()).kill()
    await engine.stop()


async def test_a_worker_that_a_kill_does_not_end_holds_no_answer() -> None:
    puppets = Puppets(Undead, Puppet)
    patience = replace(QUICK, dead_seconds=0.01, stop_seconds=0.01)
    engine = ProcessEngine(CAPACITY, puppets.launch, {"adapters": {}}, patience)
    await engine.start()
    first = await puppets.launched.get()
    answer = engine.submit(torch.zeros(3, 4), TWO)
    first.frames.send({**STATE, "ok": False, "detail": "it hangs"})
    with pytest.raises(UnavailableError):
        await read(answer)
    await answering(engine)
    assert first.killed
    second = await puppets.launched.get()
    second.kill()
    await engine.stop()
    await first.close()


async def test_a_server_stops_whatever_its_worker_does() -> None:
    puppets = Puppets(Undead)
    engine = ProcessEngine(CAPACITY, puppets.launch, {"adapters": {}}, replace(QUICK, stop_seconds=0.01))
    await engine.start()
    answer = engine.submit(torch.zeros(3, 4), TWO)
    await engine.stop()
    with pytest.raises(UnavailableError):
        await read(answer)
    await (await puppets.launched.get()).close()


@pytest.mark.parametrize("seed", range(20))
async def test_no_token_is_lost_doubled_or_anothers_whenever_workers_die(seed: int) -> None:
    """Prompts, tokens, ends, cancels and deaths in any order; each reader has what its worker said of it."""
    draw, puppets = random.Random(seed), Puppets()
    engine = ProcessEngine(CAPACITY, puppets.launch, {"adapters": {}}, QUICK)
    await engine.start()
    puppet = await puppets.launched.get()
    said: dict[int, list[Any]] = {}
    reads: dict[int, asyncio.Task[list[Any]]] = {}
    open_ones: dict[int, Any] = {}
    serial = itertools.count()

    async def heard(answer: Any) -> list[Any]:
        came: list[Any] = []
        try:
            async for event in answer:
                came.append(getattr(event, "token_id", "end"))
        except (UnavailableError, EngineError) as error:
            came.append(type(error))
        return came

    for _ in range(200):
        match draw.choices(["ask", "tokens", "end", "fail", "cancel", "die", "pause"], [6, 12, 2, 1, 2, 0.4, 4])[0]:
            case "ask" if len(engine._jobs) < CAPACITY.running + CAPACITY.waiting:
                number = next(serial)
                open_ones[number] = engine.submit(torch.zeros(3, 4), TWO)
                said[number] = []
                reads[number] = asyncio.create_task(heard(open_ones[number]))
            case "tokens" if open_ones:
                pairs = array("q")
                for number in draw.choices(list(open_ones), k=draw.randrange(1, 6)):
                    token = 1000 * number + len(said[number])
                    said[number].append(token)
                    pairs.extend((number, token))
                puppet.frames.send(NOTHING, pairs.tobytes())
            case "end" | "fail" as how if open_ones:
                number = draw.choice(list(open_ones))
                del open_ones[number]
                message = end_of("stop") if how == "end" else {**NOTHING, "errors": [[number, "engine", "no"]]}
                for each in message["ends"]:
                    each[0] = number
                puppet.frames.send(message)
                said[number].append("end" if how == "end" else EngineError)
            case "cancel" if open_ones:
                draw.choice(list(open_ones.values())).cancel()
            case "die":
                await puppet.frames.flush()
                puppet.kill()
                puppet.frames.close()
                for number in open_ones:
                    said[number].append(UnavailableError)
                open_ones.clear()
                puppet = await puppets.launched.get()
                await answering(engine)
            case _:
                await asyncio.sleep(0)
    await puppet.frames.flush()
    for number in open_ones:
        said[number].append(UnavailableError)
    puppet.kill()
    puppet.frames.close()
    assert {number: await task for number, task in reads.items()} == said
    await engine.stop()
    assert engine.load() == Load(0, 0, 0, 0)


@pytest.mark.slow
async def test_canaries_over_two_replicas_of_which_one_is_killed_again_and_again(start_server: StartServer) -> None:
    """Or stopped, which only its silence tells."""
    async with start_server(max_concurrent=4, dtype="float32", replicas=2) as serving:
        engines = serving.backend.engine._engines
        for engine in engines:
            engine._patience = replace(engine._patience, silent_seconds=2.0, dead_seconds=2.0)
        canaries = [Canary(serving, number) for number in range(CANARIES)]
        talks, serial = [serving.talk() for _ in canaries], itertools.count(1)
        alone = [await each.ask(talks[0], next(serial)) for each in canaries]

        async def ask(number: int) -> bytes:
            """As a device does: the same bytes again where a worker was lost."""
            while True:
                query = next(serial)
                try:
                    return await canaries[number].ask(talks[number], query)
                except (RuntimeError, AssertionError):
                    errors = talks[number].replies[query].errors
                    assert [error.code for error in errors] == [14], errors
                    await asyncio.sleep(0.05)

        for turn in range(3):
            asked = asyncio.gather(*(ask(number) for number in range(CANARIES)))
            await asyncio.sleep(0.02 * turn)
            if (pid := engines[turn % 2].pid) is not None:
                os.kill(pid, signal.SIGSTOP if turn == 1 else signal.SIGKILL)
            assert await asked == alone, f"turn {turn}"
        for talk in talks:
            await talk.close()
