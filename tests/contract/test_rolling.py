"""A rolling restart under load: two servers, a client that balances, and not one query that fails."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from serving import Serving, StartServer, public

from del_client import AsyncClient, Patience
from del_client.codec_cache import CodecCache

TOKENS, TALKERS = 24, 4
# As long as it takes: how fast this machine is says nothing of what is lost.
PATIENCE = Patience(3600, 0.05, 0.5)


class Pair:
    """Two servers at fixed ports, each of which may be started anew."""

    def __init__(self, start: StartServer, drain_seconds: float) -> None:
        self._start, self._drain_seconds = start, drain_seconds
        self._stacks = [AsyncExitStack(), AsyncExitStack()]
        self.servers: list[Serving] = []

    async def __aenter__(self) -> Pair:
        self.servers = [await self._begin(number, port=0) for number in range(2)]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for stack in self._stacks:
            await stack.aclose()

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    @property
    def answered(self) -> list[float]:
        """Queries that each has answered since its start."""
        return [server.sample("queries_total", outcome="length") for server in self.servers]

    async def restart(self, number: int) -> None:
        """Drain one and start it at the same port."""
        await self._stacks[number].aclose()
        self.servers[number] = await self._begin(number, self.servers[number].port)

    async def _begin(self, number: int, port: int) -> Serving:
        serving = self._start(port=port, drain_seconds=self._drain_seconds, max_concurrent=4)
        return await self._stacks[number].enter_async_context(serving)


@pytest.mark.timeout(1200)  # a hang's end: under load it takes minutes
@pytest.mark.parametrize("drain_seconds", [60.0, 0.0])
async def test_no_query_fails(
    start_server: StartServer, tiny_codec: Path, tmp_path: Path, drain_seconds: float
) -> None:
    """With time to drain each answer is whole at once; without, those that are cut off go on elsewhere."""
    over, interrupted = asyncio.Event(), []

    async def talk(client: AsyncClient) -> list[list[int]]:
        answers = []
        while not over.is_set():
            answer = client.complete("Hello", clear=True, max_new_tokens=TOKENS)
            answers.append([token async for delta in answer for token in delta.token_ids])
            interrupted.append(answer.finish.interruptions)
        return answers

    files = {"tokenizer": tiny_codec / "tokenizer.json", "chat_template": tiny_codec / "chat_template.jinja"}
    async with Pair(start_server, drain_seconds) as pair, AsyncExitStack() as clients:
        talkers = []
        for number in range(TALKERS):
            places = {"cache": CodecCache(tmp_path), "ledger": tmp_path / f"{number}.sqlite3"}
            client = AsyncClient(pair.addresses, **files, **places, patience=PATIENCE)
            talkers.append(asyncio.create_task(talk(await clients.enter_async_context(client))))
        for _ in range(4):
            # The busy one: where all talkers are at one server, the other one's restart would show nothing.
            while pair.answered[busy := pair.answered.index(max(pair.answered))] < TALKERS:
                assert not any(talker.done() for talker in talkers)
                await asyncio.sleep(0.01)
            await pair.restart(busy)
        over.set()
        answers = [answer for talker in talkers for answer in await talker]
    assert len(answers) >= 4 * TALKERS
    assert {tuple(answer) for answer in answers} == {tuple(answers[0])}
    if drain_seconds:
        assert sum(interrupted) < len(answers)


async def test_a_stream_of_age_takes_no_more_and_ends_after_its_last_answer(start_server: StartServer) -> None:
    async with start_server(connection_age=1.0) as serving:
        talk = serving.talk()
        await talk.open(1, 1)
        serial = 1
        while not any(reply.errors for reply in talk.replies.values()):
            serial += 1
            await talk.open(serial, 1)
            await talk.cancel(serial)
            await asyncio.sleep(0.05)
        (reply,) = (reply for reply in talk.replies.values() if reply.errors)
        assert reply.errors[0].reason == "SERVER_DRAINING"
        await talk.segments(1, public(5))
        await talk.end(1)
        assert len((await talk.answer(1)).token_ids) == 8
        await talk.closed()
        again = serving.talk()
        await again.ask(1, [public(5)])
        await again.answer(1)
        await again.close()
