"""Classification on the device: what is sent of a private text, what it costs, and what comes of the scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from client_fakes import DIM, FakeServer, Serving, ServingThread, TinyCodec, client_arguments

from del_client import AsyncClient, Client, Ledger, Patience, Policy
from del_codec.errors import InvalidValue, MismatchError, PrivacyRefusal, TimedOut, UnavailableError
from del_codec.noise import NoiseSetting
from del_codec.v1 import inference_pb2 as pb

MOOD = pb.TaskInfo(name="mood", template="Text: {}\nMood: ", labels=["good", "bad"])
PAIR = pb.TaskInfo(name="pair", template="{}|{}", labels=["no", "yes"])


@pytest.fixture
def server(codec: TinyCodec) -> FakeServer:
    return FakeServer(codec, tasks=[MOOD, PAIR])


@pytest.fixture
async def client(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with Serving(server) as address, AsyncClient(address, **client_arguments(codec, tmp_path)) as client:
        yield client


def text_of(client: AsyncClient, ids: Any) -> str:
    return str(client.reader.tokenizer.decode(list(ids)))


async def test_the_text_goes_as_bits_and_the_template_and_labels_as_ids(
    client: AsyncClient, server: FakeServer
) -> None:
    found = await client.classify("dull", ["grim", "fun"], task="mood", mu=5, bits=2)
    (question,) = server.questions
    before, words, after = question.segments
    assert text_of(client, before.public.token_ids) == "Text: "
    assert (words.private.tokens, words.private.bits) == (4, 2)
    assert words.private.noise_scale == NoiseSetting.from_mu(5, DIM, 2).scale
    assert text_of(client, after.public.token_ids) == "\nMood: "
    assert [text_of(client, one.token_ids) for one in question.candidates] == ["grim", "fun"]
    assert (question.task, question.codec_fingerprint.hex()) == ("mood", client.table.fingerprint)
    assert found.scores.wire_bytes == question.ByteSize() + 5 == found.scores.usage.received_bytes
    assert found.privacy is not None
    assert found.privacy.private_tokens == 4
    assert found.prepared.payload_bytes == len(words.private.payload)


async def test_labels_are_ranked_by_their_likelihood(client: AsyncClient, server: FakeServer) -> None:
    server.logprobs = [-3.0, -1.0]
    found = await client.classify("dull", task="mood")
    assert found.label == "bad"
    assert [label.text for label in found.labels] == ["bad", "good"]
    assert found.labels[0].probability == pytest.approx(1 / (1 + math.exp(-2)))
    assert sum(label.probability for label in found.labels) == pytest.approx(1)
    assert found.labels[1].logprob == -3


async def test_without_a_task_the_words_are_the_callers_or_plain_ones(client: AsyncClient, server: FakeServer) -> None:
    await client.classify("dull", ["grim", "fun"])
    await client.classify(["a", "b"], ["no", "yes"], template="{} and {}?")
    plain, own = server.questions
    assert text_of(client, plain.segments[-1].public.token_ids) == "\nCategory:"
    assert [text_of(client, one.token_ids) for one in plain.candidates] == [" grim", " fun"]
    assert [segment.private.tokens for segment in own.segments] == [1, 0, 1, 0]
    assert (plain.task, own.task) == ("", "")


async def test_two_texts_are_two_private_stretches(client: AsyncClient, server: FakeServer) -> None:
    await client.classify(["one", "other"], task="pair")
    first, between, second = server.questions[0].segments
    assert (first.private.tokens, second.private.tokens) == (3, 5)
    assert text_of(client, between.public.token_ids) == "|"


async def test_a_classification_is_charged_before_it_is_sent(
    client: AsyncClient, server: FakeServer, tmp_path: Path
) -> None:
    charged: list[bool] = []

    async def look(_: grpc.aio.ServicerContext) -> None:
        with Ledger(tmp_path / "ledger.sqlite3") as ledger, ledger.reading() as entries:
            charged.append(entries.latest() is not None)

    server.before_score = look
    await client.classify("dull", task="mood")
    assert charged == [True]


async def test_a_policy_that_is_exceeded_keeps_everything_here(
    server: FakeServer, codec: TinyCodec, tmp_path: Path
) -> None:
    policy = Policy.from_toml("[limits.prompt]\nepsilon = 1.0\n")
    async with (
        Serving(server) as address,
        AsyncClient(address, policy=policy, **client_arguments(codec, tmp_path)) as client,
    ):
        with pytest.raises(PrivacyRefusal):
            await client.classify("dull", task="mood", mu=9)
    assert server.questions == []


async def test_in_the_clear_where_the_policy_allows_it(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
    policy = Policy.from_toml("allow_clear = true\n")
    async with (
        Serving(server) as address,
        AsyncClient(address, policy=policy, **client_arguments(codec, tmp_path)) as client,
    ):
        found = await client.classify("dull", task="mood", clear=True)
    assert text_of(client, server.questions[0].segments[0].public.token_ids) == "Text: dull\nMood: "
    assert (found.privacy, server.questions[0].task) == (None, "")


async def test_a_lost_connection_gets_the_same_bits_again(client: AsyncClient, server: FakeServer) -> None:
    async def fail_once(context: grpc.aio.ServicerContext) -> None:
        server.before_score = None
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    server.before_score = fail_once
    await client.classify("dull", task="mood")
    first, second = server.questions
    assert first == second


async def test_patience_ends(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
    async def fail(context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")

    server.before_score = fail
    impatient = {**client_arguments(codec, tmp_path), "patience": Patience(0)}
    async with Serving(server) as address, AsyncClient(address, **impatient) as client:
        with pytest.raises(UnavailableError):
            await client.classify("dull", task="mood")
    assert len(server.questions) == 1


async def test_a_timeout_cancels_the_call(client: AsyncClient, server: FakeServer) -> None:
    cancelled = asyncio.Event()

    async def wait(_: grpc.aio.ServicerContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server.before_score = wait
    with pytest.raises(TimedOut, match=r"0\.5 s"):
        await client.classify("dull", task="mood", timeout=0.5)
    await cancelled.wait()


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({"text": "dull"}, "labels"),
        ({"text": "dull", "labels": ["one"]}, "labels"),
        ({"text": "dull", "labels": ["one", "one"]}, "labels"),
        ({"text": "dull", "task": "other"}, "task"),
        ({"text": ["a", "b"], "task": "mood"}, "fields"),
        ({"text": "", "task": "mood"}, "fields"),
        ({"text": ["a", "b", "c"], "labels": ["x", "y"]}, "fields"),
        ({"text": "dull", "labels": ["x", "y"], "template": "no place"}, "template"),
        ({"text": "dull", "task": "mood", "mu": -1.0}, "mu"),
        ({"text": "dull" * 20, "task": "mood"}, "prompt tokens"),
        ({"text": "dull", "task": "mood", "labels": ["x", "y" * 50]}, "tokens of prompt and candidate"),
        ({"text": "dull", "task": "mood", "labels": ["x", "y", "z"]}, "candidates"),
    ],
)
async def test_what_can_not_be_asked_is_refused_before_anything_is_spent(
    server: FakeServer, codec: TinyCodec, tmp_path: Path, question: dict[str, Any], field: str
) -> None:
    server.limits = pb.Limits(prompt_tokens=50, context_tokens=60, candidates=2)
    async with Serving(server) as address, AsyncClient(address, **client_arguments(codec, tmp_path)) as client:
        with pytest.raises(InvalidValue) as caught:
            await client.classify(**question)
        assert caught.value.field == field
        with client.ledger.reading() as entries:
            assert entries.latest() is None
    assert server.questions == []


async def test_a_message_over_the_servers_limit_is_refused_before_anything_is_spent(
    server: FakeServer, codec: TinyCodec, tmp_path: Path
) -> None:
    server.limits = pb.Limits(message_bytes=600)
    async with Serving(server) as address, AsyncClient(address, **client_arguments(codec, tmp_path)) as client:
        with pytest.raises(InvalidValue, match="bytes of the message"):
            await client.classify("dull" * 100, task="mood")
    assert server.questions == []


@pytest.mark.parametrize("logprobs", [[-1.0], [-1.0, math.nan], [-1.0, -math.inf]])
async def test_scores_that_are_none_are_refused(client: AsyncClient, server: FakeServer, logprobs: list[float]) -> None:
    server.logprobs = logprobs
    with pytest.raises(MismatchError, match="2 candidates"):
        await client.classify("dull", task="mood")


async def test_a_task_that_is_none_is_refused(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
    server.tasks = [pb.TaskInfo(name="mood", template="no place", labels=["a", "b"])]
    async with Serving(server) as address:
        with pytest.raises(MismatchError, match="template"):
            await AsyncClient(address, **client_arguments(codec, tmp_path)).__aenter__()


def test_code_without_an_event_loop(server: FakeServer, codec: TinyCodec, tmp_path: Path) -> None:
    with ServingThread(server) as address:
        client = Client(address, **client_arguments(codec, tmp_path))
        with pytest.raises(RuntimeError, match="enter"):
            client.classify("dull", task="mood")
        with client:
            assert client.classify("dull", task="mood").label == "good"


async def test_what_is_sensitive_in_a_text_stays_on_the_device(
    server: FakeServer, codec: TinyCodec, tmp_path: Path
) -> None:
    policy = Policy.from_toml('[kinds.email]\nmode = "placeholder"\n')
    async with (
        Serving(server) as address,
        AsyncClient(address, policy=policy, **client_arguments(codec, tmp_path)) as client,
    ):
        await client.classify(["ask ada@example.org", "or ada@example.org"], task="pair")
        sent = [text_of(client, segment.public.token_ids) for segment in server.questions[0].segments]
    assert [text for text in sent if text] == ["[EMAIL_1]", "|", "[EMAIL_1]"]
    assert "ada" not in "".join(sent)
