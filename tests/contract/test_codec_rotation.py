"""A codec is replaced as docs/operations.md says: the new one before the old, devices move over, then the old one goes.

Servers of the three stages follow each other at one address, as in a rolling restart.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving import StartServer

from del_client import AsyncClient, Ledger, Policy
from del_client.answer import Answer
from del_client.codec_cache import CodecCache
from del_client.retrying import Patience
from del_client.spending import budget
from del_codec.errors import MismatchError, PrivacyRefusal
from del_codec.table import LatentTable

QUESTION, NEXT = "a first question", "and one more"
GREEDY = {"max_new_tokens": 6, "temperature": 0.0, "mu": 10.0}


@pytest.fixture(scope="module")
def new_codec(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another codec for the same model: its table is the old one's mirror image."""
    folder = tmp_path_factory.mktemp("new") / "codec"
    shutil.copytree(tiny_codec, folder)
    table = LatentTable.load(tiny_codec / "device.safetensors")
    data = LatentTable.to_bytes(table.spec, -table.latents, table.unigram_counts)
    (folder / "device.safetensors").write_bytes(data)
    return folder


def fingerprint(codec: Path) -> str:
    return LatentTable.load(codec / "device.safetensors").fingerprint


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3") as opened:
        yield opened


def device(port: int, codec: Path, tmp_path: Path, ledger: Ledger, policy: Policy | None = None) -> AsyncClient:
    return AsyncClient(
        f"127.0.0.1:{port}",
        policy=policy,
        ledger=ledger,
        tokenizer=codec / "tokenizer.json",
        chat_template=codec / "chat_template.jinja",
        cache=CodecCache(tmp_path / "cache"),
        patience=Patience(20.0),
    )


async def read(answer: Answer) -> int:
    """How many tokens came, once all have."""
    return sum([len(delta.token_ids) async for delta in answer])


async def test_bits_of_the_old_codec_are_answered_alike_beside_the_new_one(
    start_server: StartServer, tiny_codec: Path, new_codec: Path
) -> None:
    async with start_server(codecs=(tiny_codec,)) as before:
        bits, name = before.private(5, 6, 7, 8), before.fingerprint
        talk = before.talk()
        await talk.ask(1, [bits], codec_fingerprint=name)
        answer = (await talk.answer(1)).token_ids
    async with start_server(codecs=(new_codec, tiny_codec)) as beside:
        assert beside.fingerprint != name
        talk = beside.talk()
        await talk.ask(1, [bits], codec_fingerprint=name)
        await talk.ask(2, [beside.private(5, 6, 7, 8)], codec_fingerprint=beside.fingerprint)
        assert (await talk.answer(1)).token_ids == answer
        assert (await talk.answer(2)).finish
    async with start_server(codecs=(new_codec,)) as after:
        talk = after.talk()
        await talk.ask(1, [bits], codec_fingerprint=name)
        assert (await talk.error(1)).reason == "CODEC_UNKNOWN"


async def test_an_open_conversation_keeps_its_bits_and_new_clients_take_the_new_codec(
    start_server: StartServer, tiny_codec: Path, new_codec: Path, tmp_path: Path, ledger: Ledger
) -> None:
    async with start_server(codecs=(tiny_codec,)) as before:
        port = before.port
        client = device(port, tiny_codec, tmp_path, ledger)
        await client.__aenter__()
        talk = client.conversation(**GREEDY)
        assert await read(talk.generate(QUESTION))
    async with start_server(codecs=(new_codec, tiny_codec), port=port):
        assert await read(talk.generate(NEXT))
        # Each word was drawn once: the first question went again as the bits that it was.
        (row,) = budget(ledger, Policy(), "conversation", 1).rows
        assert row.tokens == len(QUESTION) + len(NEXT)
        async with device(port, tiny_codec, tmp_path, ledger) as moved:
            assert moved.table.fingerprint == fingerprint(new_codec)
            assert await read(moved.generate(QUESTION, **GREEDY))
    async with start_server(codecs=(new_codec,), port=port):
        with pytest.raises(MismatchError):
            await read(talk.generate("too late"))
    await client.__aexit__(None, None, None)


async def test_a_policy_that_names_codecs_keeps_to_the_first_of_them_that_is_served(
    start_server: StartServer, tiny_codec: Path, new_codec: Path, tmp_path: Path, ledger: Ledger
) -> None:
    old, new = map(fingerprint, (tiny_codec, new_codec))
    policy = Policy(codecs=(old,))
    async with start_server(codecs=(new_codec, tiny_codec)) as beside:
        port = beside.port
        for codecs, taken in (((old,), old), ((new,), new), ((old, new), new)):
            async with device(port, tiny_codec, tmp_path, ledger, Policy(codecs=codecs)) as client:
                assert client.table.fingerprint == taken
                assert await read(client.generate(QUESTION, **GREEDY))
    async with start_server(codecs=(new_codec,), port=port):
        with pytest.raises(PrivacyRefusal, match=new):
            async with device(port, tiny_codec, tmp_path, ledger, policy):
                pass
