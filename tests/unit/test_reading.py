"""A draft's reading: the figures of sending it, without sending it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_fakes import FakeServer, Serving, TinyCodec, client_arguments

from del_client import AsyncClient
from del_client.message import Message
from del_client.options import Options
from del_client.policy import Kind, Policy
from del_client.reading import DraftReading, PlaceholderChip, TokenChip, read_draft
from del_client.sketch import Attacks, Sketch

POLICY = Policy(
    kinds={
        "email": Kind("email"),
        "phone": Kind("phone", mode="private", mu=3, pad=4),
    }
)
DRAFT = "Ask ada@example.org or 020 7946 0958."


@pytest.fixture
async def client(codec: TinyCodec, server: FakeServer, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with (
        Serving(server) as address,
        AsyncClient(address, policy=POLICY, **client_arguments(codec, tmp_path)) as opened,
    ):
        yield opened


def read(client: AsyncClient, *chat: Message, **options: float) -> DraftReading:
    sketch = Sketch(Attacks(client.table, client.desk.attack_prior))
    return read_draft(client, sketch, chat, Options(**options))  # type: ignore[arg-type]


async def test_its_figures_are_those_of_sending_the_draft(client: AsyncClient) -> None:
    reading = read(client, Message("user", DRAFT))
    answer = client.generate(DRAFT)
    async for _ in answer:
        pass
    assert reading.wire_bytes == answer.wire_bytes
    assert (reading.private_tokens, reading.payload_bytes) == (
        answer.prepared.private_tokens,
        answer.prepared.payload_bytes,
    )
    assert reading.public_tokens == answer.prepared.prompt_tokens - answer.prepared.private_tokens
    assert reading.privacy == answer.privacy
    assert reading.text_bytes == len(DRAFT.encode())
    assert reading.fp16_bytes == reading.private_tokens * client.table.spec.embedding_width * 2


async def test_its_chips_are_the_draft_with_what_stays_and_what_gets_more_noise(client: AsyncClient) -> None:
    reading = read(client, Message("user", DRAFT))
    words = "".join(chip.text for chip in reading.chips if isinstance(chip, PlaceholderChip) or not chip.kind)
    assert words == "Ask ada@example.org or ."
    (email,) = [chip for chip in reading.chips if isinstance(chip, PlaceholderChip)]
    assert (email.kind, email.leaves, email.tokens) == ("email", "[EMAIL_1]", len("[EMAIL_1]"))
    phone = [chip for chip in reading.chips if isinstance(chip, TokenChip) and chip.kind == "phone"]
    assert "".join(chip.text for chip in phone) == "020 7946 0958   "  # padded to a multiple of four
    assert {round(chip.setting.mu(client.table.spec.dim), 3) for chip in phone} == {3}


async def test_nothing_is_sent_charged_or_remembered(client: AsyncClient, server: FakeServer) -> None:
    read(client, Message("user", DRAFT))
    with client.ledger.reading() as entries:
        assert (entries.groups("day", 5), entries.memory_bytes()) == ([], 0)
    assert server.streams == []


async def test_an_empty_draft_has_the_certificate_of_one_token(client: AsyncClient) -> None:
    reading = read(client, Message("user", "before"), Message("assistant", "answer", public=True), Message("user", ""))
    assert (reading.chips, reading.private_tokens, reading.wire_bytes) == ((), 0, 0)
    assert reading.privacy == client.desk.one_token(reading.setting)
    assert reading.privacy.private_tokens == 1


async def test_a_draft_that_is_all_placeholder_still_has_a_verdict_on_the_noise(client: AsyncClient) -> None:
    reading = read(client, Message("user", "{{Anna}}"))
    assert [type(chip) for chip in reading.chips] == [PlaceholderChip]
    assert (reading.private_tokens, reading.payload_bytes) == (0, 0)
    assert reading.verdict.text


async def test_earlier_messages_count_for_bytes_and_are_not_charged_again(client: AsyncClient) -> None:
    alone = read(client, Message("user", "And now?"))
    later = read(
        client, Message("user", "Hello."), Message("assistant", "Hi.", public=True), Message("user", "And now?")
    )
    assert [chip.text for chip in later.chips] == [chip.text for chip in alone.chips]
    assert (later.earlier_tokens, alone.earlier_tokens) == (len("Hello."), 0)
    assert later.privacy == alone.privacy
    assert later.payload_bytes == alone.payload_bytes
    assert later.wire_bytes > alone.wire_bytes + later.earlier_tokens


async def test_the_dial_turns_figures_and_verdict(client: AsyncClient) -> None:
    message = Message("user", "Hello.")
    strong, weak, wide = (read(client, message, **options) for options in ({"mu": 1}, {"mu": 30}, {"mu": 8, "bits": 8}))
    assert strong.privacy.epsilon_prompt < weak.privacy.epsilon_prompt
    assert (strong.verdict.protection, weak.verdict.protection) == ("proven", "little")
    assert wide.payload_bytes == 8 * strong.payload_bytes


async def test_a_characters_last_piece_has_it(client: AsyncClient) -> None:
    chips = read(client, Message("user", "aé😀"), mu=400, bits=8).chips
    assert [chip.text for chip in chips] == ["a", "", "é", "", "", "", "😀"]
    assert [chip.guess for chip in chips if isinstance(chip, TokenChip) and chip.right] == [chip.text for chip in chips]


async def test_a_piece_without_its_character_is_shown_as_one(client: AsyncClient) -> None:
    weak = [read(client, Message("user", "😀😀😀"), mu=1).chips for _ in range(8)]
    assert any("\ufffd" in chip.guess for chips in weak for chip in chips if isinstance(chip, TokenChip))
