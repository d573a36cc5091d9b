"""A worker that says what can't be, or dies: every answer ends, and the next worker is used."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
from array import array
from typing import Any

import pytest
import torch
from serving import StartServer
from test_cross_talk import CANARIES, Canary

from del_codec.errors import EngineError, UnavailableError
from del_server.engine.base import Capacity, Sampling
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
        self.frames.close()
        with contextlib.suppress(ConnectionError):
            await self.frames._writer.wait_closed()


class Puppets:
    """Those that an engine launches, one after another."""

    def __init__(self) -> None:
        self.launched: asyncio.Queue[Puppet] = asyncio.Queue()
        self._beginning = set[asyncio.Task[None]]()

    async def launch(self) -> Launched:
        puppet = Puppet()
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
    while not engine.health().ok or engine._frames is None:
        await asyncio.sleep(0.001)
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


@pytest.mark.slow
async def test_canaries_over_two_replicas_of_which_one_is_killed_again_and_again(start_server: StartServer) -> None:
    async with start_server(max_concurrent=4, dtype="float32", replicas=2) as serving:
        engines = serving.backend.engine._engines
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
                os.kill(pid, signal.SIGKILL)
            assert await asked == alone, f"turn {turn}"
        for talk in talks:
            await talk.close()
