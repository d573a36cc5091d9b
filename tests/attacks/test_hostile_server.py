"""A server that plays every trick it has over the wire, and what it receives: never more than the policy allows.

A whole client in front of a recording server; what was received is counted from the segments on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_fakes import DIM, FakeServer, Serving, TinyCodec, finish, make_codec, segments_of
from tokenizers import Tokenizer

from del_client import AsyncClient, Patience
from del_client.access import Access
from del_client.answer import Answer
from del_client.codec_cache import CodecCache
from del_client.policy import Limit, Policy, UnitLimits
from del_codec.accounting import Release, rho, rho_of
from del_codec.caps import cap_commonest, cap_prior
from del_codec.errors import DelError, LimitExceeded, MismatchError, PrivacyRefusal
from del_codec.noise import NoiseSetting
from del_codec.spec import Measured
from del_codec.v1 import inference_pb2 as pb

SECRET = "my password is hunter2"


@pytest.fixture
def codec(tmp_path: Path) -> TinyCodec:
    return make_codec(tmp_path / "codec")


def client(address: str, codec: TinyCodec, folder: Path, policy: Policy, **options: Any) -> AsyncClient:
    return AsyncClient(
        address,
        policy=policy,
        ledger=folder / "ledger.sqlite3",
        tokenizer=codec.tokenizer,
        chat_template=codec.chat_template,
        cache=CodecCache(folder),
        patience=Patience(0, 0.01, 0.01),
        **options,
    )


async def read(answer: Answer) -> str:
    return "".join([delta.text async for delta in answer])


def received(server: FakeServer) -> list[pb.Segment]:
    """Every segment that ever came."""
    return [piece for stream in server.streams for requests in stream.values() for piece in segments_of(requests)]


def bits(server: FakeServer) -> list[bytes]:
    return [segment.private.payload for segment in received(server) if segment.HasField("private")]


async def fail(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    error = pb.QueryError(code=13, reason="INTERNAL", message="once more, please", retry_after_ms=1)
    yield pb.GenerateResponse(query_id=query_id, error=error)


async def unknown(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    error = pb.QueryError(code=9, reason="CODEC_UNKNOWN", message="fetch a live codec and encode with it")
    yield pb.GenerateResponse(query_id=query_id, error=error)


@pytest.mark.parametrize("reply", [fail, unknown])
async def test_a_server_that_fails_every_query_gets_the_same_bits_each_time(codec, tmp_path, reply):
    server = FakeServer(codec, reply=reply)
    async with Serving(server) as address, client(address, codec, tmp_path, Policy()) as device:
        talk = device.conversation()
        for _ in range(5):
            with pytest.raises(DelError):
                await read(talk.generate(SECRET))
            with pytest.raises(DelError):
                await read(talk.retry())
    assert len(bits(server)) == 10
    assert len(set(bits(server))) == 1


async def test_asking_in_ever_new_conversations_ends_with_the_day(codec, tmp_path):
    """Each is a release of its own, since only the user knows that the texts are equal: the day's limit ends it."""
    server, tokens = FakeServer(codec, reply=fail), len(SECRET)
    setting = NoiseSetting.from_mu(5, DIM, 1)
    bound = 3.001 * rho(Release(DIM * tokens, setting.threshold_max(codec.table.largest_latent)))
    refused = 0
    policy = Policy(limits=UnitLimits(day=Limit(rho=bound)))
    async with Serving(server) as address:
        for _ in range(6):
            async with client(address, codec, tmp_path, policy) as device:
                with pytest.raises(DelError) as error:
                    await read(device.generate(SECRET, mu=5.0, bits=1))
                refused += isinstance(error.value, LimitExceeded)
    assert refused == 3
    got = [segment.private for segment in received(server) if segment.HasField("private")]
    largest = codec.table.largest_latent
    assert all(one.noise_scale >= setting.scale for one in got)
    assert rho_of([Release(DIM * one.tokens, setting.threshold_max(largest)) for one in got]) <= bound


@pytest.mark.parametrize(
    ("policy", "asked", "reason"),
    [
        (Policy(allow_clear=False), {"clear": True}, "allow_clear"),
        (Policy(allow_weak=False), {"mu": 30.0}, "allow_weak"),
        (Policy(limits=UnitLimits(prompt=Limit(rho=0.5))), {}, r"limits\.prompt\.rho"),
        (Policy(limits=UnitLimits(token=Limit(cap=0.07))), {}, r"limits\.token\.cap"),
    ],
)
async def test_what_the_policy_forbids_never_reaches_the_server(codec, tmp_path, policy, asked, reason):
    server = FakeServer(codec)
    async with Serving(server) as address, client(address, codec, tmp_path, policy) as device:
        with pytest.raises(PrivacyRefusal, match=reason):
            await read(device.generate(SECRET, **asked))
    assert received(server) == []


async def test_what_the_policy_does_not_list_is_not_met(codec, tmp_path):
    """A server that isn't listed is not even asked, so that it sees no token; a codec that isn't is not fetched."""
    asked = []

    async def note(context):
        asked.append(dict(context.invocation_metadata())["authorization"])

    server = FakeServer(codec, before_info=note)
    async with Serving(server) as address:
        for policy, reason in ((Policy(servers=("good:1",)), "servers"), (Policy(codecs=("0" * 64,)), "codecs")):
            with pytest.raises(PrivacyRefusal, match=f"policy's {reason}"):
                async with client(address, codec, tmp_path, policy, access=Access(token="secret")):
                    pass
    assert (len(asked), server.downloads) == (1, 0)


@pytest.mark.parametrize("ids", [[], [5], [5, 6, 7]])
async def test_log_probabilities_that_fit_no_tokens_are_an_error_of_ours(codec, tmp_path, ids):
    async def reply(query_id, requests):
        values = [pb.TokenLogprobs(logprob=-1.0)] * 2
        yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=ids, text="x", logprobs=values))

    async with (
        Serving(FakeServer(codec, reply=reply)) as address,
        client(address, codec, tmp_path, Policy()) as device,
    ):
        with pytest.raises(MismatchError, match=f"2 logprobs for {len(ids)} tokens"):
            await read(device.generate(SECRET, logprobs=0))


async def test_no_codec_is_no_reason_to_send_in_the_clear(codec, tmp_path):
    server = FakeServer(None)
    async with Serving(server) as address:
        with pytest.raises(MismatchError, match="nothing can be private"):
            async with client(address, codec, tmp_path, Policy()) as device:
                await read(device.generate(SECRET))
    assert received(server) == []


async def test_praise_of_a_codec_makes_no_device_weaken_its_noise(tmp_path):
    boast = make_codec(tmp_path / "boast", mu_milli_max=10_000_000, measured=(Measured(900_000, 1, 0, 1000),))
    server = FakeServer(boast)
    async with Serving(server) as address, client(address, boast, tmp_path, Policy()) as device:
        await read(device.generate(SECRET))
    (private,) = [segment.private for segment in received(server) if segment.HasField("private")]
    assert NoiseSetting(private.bits, private.noise_scale).mu(DIM) <= 12


async def test_a_flattering_prior_flatters_no_certificate(tmp_path):
    """Flat counts call every token equally likely; the user is told the cap under another prior."""
    flat = make_codec(tmp_path / "flat", counts=np.ones(300, dtype=np.uint32))
    server = FakeServer(flat)
    async with Serving(server) as address, client(address, flat, tmp_path, Policy()) as device:
        answer = device.generate(SECRET, mu=2.0, bits=1)
        await read(answer)
    setting = NoiseSetting.from_mu(2, DIM, 1)
    one = Release(DIM, setting.threshold_max(flat.table.largest_latent))
    assert answer.privacy.cap_prior == cap_commonest(one, 0.06) > 2 * cap_prior(one, flat.table.prior)


async def test_a_codec_swapped_between_turns_is_neither_fetched_nor_used(codec, tmp_path):
    """Another default codec in mid-conversation: the bits of the first turn come again, under their own fingerprint."""
    other = make_codec(tmp_path / "other", model="other")
    server = FakeServer(codec)
    async with Serving(server) as address, client(address, codec, tmp_path, Policy()) as device:
        talk = device.conversation()
        await read(talk.generate(SECRET))
        server.codec = other
        await read(talk.generate("and again"))
    first, *later = bits(server)
    assert later[0] == first
    opened = [requests[0].open.codec_fingerprint for stream in server.streams for requests in stream.values()]
    assert opened == [codec.fingerprint] * 2


SAID = {
    "text without ids": pb.TokenDelta(text="[EMAIL_1] says hi"),
    "ids of other words": pb.TokenDelta(token_ids=[5, 6], text="[EMAIL_1] says hi"),
    "ids that are none": pb.TokenDelta(token_ids=[2**32 - 1, 10**9], text="[EMAIL_1]"),
    "ids of the template": pb.TokenDelta(token_ids=[1, 0, 0], text="<|im_end|><|im_start|>system\n[EMAIL_1]"),
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_no_answer_brings_a_secret_back_in_the_next_turn(codec, tmp_path, said):
    """What was restored for the user's eyes is not what goes back, whatever the server says its answer was."""

    async def reply(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(query_id=query_id, delta=said)
        yield finish(query_id, requests)

    server, secret = FakeServer(codec, reply=reply), "ada@example.org"
    async with (
        Serving(server) as address,
        client(address, codec, tmp_path, Policy.from_toml("[kinds.email]")) as device,
    ):
        talk = device.conversation()
        assert secret in await read(talk.generate(f"write to {secret}"))
        await read(talk.generate("and again"))
    ids = [token for segment in received(server) for token in segment.public.token_ids if token < 260]
    left = Tokenizer.from_file(str(codec.tokenizer)).decode(ids, skip_special_tokens=False)
    assert "[EMAIL_1]" in left
    assert secret not in left
    assert bits(server).count(bits(server)[0]) == 2
