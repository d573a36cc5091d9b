"""What a device counts of its answers, against a recording server in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from client_fakes import DIM, WIDTH, FakeServer, Serving, TinyCodec, client_arguments

from del_client import AsyncClient, Policy
from del_client.metrics import DeviceMetrics
from del_codec.accounting import epsilon_of
from del_codec.errors import DelError, PrivacyRefusal
from del_codec.meters import EPSILON_DELTA
from del_codec.noise import NoiseSetting
from del_codec.released import releases_of
from del_codec.v1 import inference_pb2 as pb


async def failing(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[7], text="hel"))
    yield pb.GenerateResponse(query_id=query_id, error=pb.QueryError(code=13, reason="ENGINE_FAILED", message="no"))


def sample(metrics: DeviceMetrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(f"del_client_{name}", labels)
    assert value is not None, name
    return value


async def test_answers_are_counted_by_how_they_end(codec: TinyCodec, tmp_path: Path) -> None:
    metrics, server = DeviceMetrics(), FakeServer(codec)
    arguments = client_arguments(codec, tmp_path)
    policy = Policy(allow_clear=False)
    async with (
        Serving(server) as address,
        AsyncClient(address, **arguments, policy=policy, watch=metrics.answered) as client,
    ):
        answer = client.generate("hi there", mu=5, bits=2)
        assert "".join([delta.text async for delta in answer]) == "hello"
        async for _ in client.generate("leave", mu=5):
            break
        server.reply = failing
        with pytest.raises(DelError):
            [delta async for delta in client.generate("fail", mu=5)]
        with pytest.raises(PrivacyRefusal):
            [delta async for delta in client.generate("refuse", clear=True)]
        table = client.table
    counts = {outcome: sample(metrics, "answers_total", outcome=outcome) for outcome in ("stop", "failed", "refused")}
    assert counts == {"stop": 1, "failed": 1, "refused": 1}
    assert sample(metrics, "answers_total", outcome="left") == 1
    assert sample(metrics, "tokens_total", kind="private") == len("hi there") + len("leave") + len("fail")
    assert sample(metrics, "tokens_total", kind="generated") == 2 + 1 + 1
    assert sample(metrics, "sent_payload_bytes_total", bits="2") == len("hi there") * DIM * 2 / 8
    assert sample(metrics, "embedding_bytes_total", dtype="float16") == 17 * WIDTH * 2
    queries = [stream[number] for stream in server.streams for number in sorted(stream)]
    carried = sum(request.ByteSize() + 5 for requests in queries for request in requests if not cancels(request))
    assert sample(metrics, "sent_wire_bytes_total") == carried
    assert sample(metrics, "time_to_first_token_seconds_count") == sample(metrics, "answer_seconds_count") == 1
    assert sample(metrics, "prompt_mu_bucket", le="5.0") == sample(metrics, "prompt_mu_count") == 3
    settings = [(NoiseSetting.from_mu(5, DIM, bits), tokens) for bits, tokens in ((2, 8), (1, 5), (1, 4))]
    exact = sum(epsilon_of(releases_of(table, {setting: tokens}), EPSILON_DELTA) for setting, tokens in settings)
    assert exact <= sample(metrics, "prompt_epsilon_sum") <= 1.2 * exact


def cancels(request: pb.GenerateRequest) -> bool:
    """Whether a request is a cancel, which a device counts in no answer."""
    return request.HasField("cancel")


async def test_a_prompt_in_the_clear_counts_as_no_private_one(codec: TinyCodec, tmp_path: Path) -> None:
    metrics = DeviceMetrics()
    arguments = client_arguments(codec, tmp_path)
    async with (
        Serving(FakeServer(codec)) as address,
        AsyncClient(address, **arguments, watch=metrics.answered) as client,
    ):
        [delta async for delta in client.generate("hi", clear=True)]
    assert sample(metrics, "tokens_total", kind="private") == sample(metrics, "prompt_mu_count") == 0
    assert sample(metrics, "tokens_total", kind="public") > 2
