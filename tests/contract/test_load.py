"""The load generator against a stub engine: who is asked how often, what counts from when, what a refusal is."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from benchmarks.load import Devices, Loaded, Sample, devices
from benchmarks.service_loop import public_request
from benchmarks.serving_load import quantile
from benchmarks.stub import stubbed
from del_codec.v1 import inference_pb2 as pb
from del_server.config import ServeConfig

STEP = 0.02
TOKENS = 5


@asynccontextmanager
async def served(tiny_model: Path, count: int) -> AsyncIterator[Devices]:
    from del_server.app import load, running

    config = ServeConfig(model=str(tiny_model), port=0, device="cpu", drain_seconds=5.0)
    async with running(stubbed(load(config), STEP), config) as port, devices(f"127.0.0.1:{port}", count) as many:
        yield many


async def test_a_closed_loop_asks_again_when_it_is_answered(tiny_model: Path) -> None:
    async with served(tiny_model, 3) as many:
        loaded = await many.closed(partial(public_request, TOKENS), 2)
    assert [sample.tokens for sample in loaded.answered] == [TOKENS] * 6
    for sample in loaded.samples:
        assert sample.first >= STEP
        assert len(sample.gaps) == TOKENS - 1
        assert sample.whole >= sample.first + sum(sample.gaps) - 1e-6
    assert loaded.seconds >= 2 * TOKENS * STEP
    assert loaded.throughput() == pytest.approx(6 * TOKENS / loaded.seconds)


async def test_poisson_arrivals_wait_for_nobody(tiny_model: Path) -> None:
    async with served(tiny_model, 2) as many:
        loaded = await many.poisson(partial(public_request, TOKENS), rate=1e6, count=8, seed=1)
    assert len(loaded.answered) == 8
    assert sum(sample.whole for sample in loaded.samples) > 2 * loaded.seconds


async def test_a_refusal_is_named_and_counts_for_nothing(tiny_model: Path) -> None:
    def refused() -> pb.GenerateRequest:
        request = public_request(TOKENS)
        request.open.prompt_tokens = 1
        return request

    async with served(tiny_model, 1) as many:
        loaded = await many.closed(refused, 1)
    assert [sample.refused for sample in loaded.samples] == ["VALUE_INVALID"]
    assert loaded.answered == []
    assert loaded.throughput() == 0


def test_goodput_leaves_out_what_began_late() -> None:
    loaded = Loaded([Sample(first=0.5, tokens=10), Sample(first=2.0, tokens=30), Sample(tokens=5, refused="X")], 2.0)
    assert loaded.throughput() == 20
    assert loaded.goodput(1.0) == 5


def test_quantiles() -> None:
    assert [quantile([4.0, 1.0, 3.0, 2.0], share) for share in (0, 0.5, 0.99)] == [1.0, 3.0, 4.0]


async def test_a_late_load_counts_from_when_a_prompt_was_due(tiny_model: Path) -> None:
    def slow() -> pb.GenerateRequest:
        time.sleep(0.1)
        return public_request(1)

    async with served(tiny_model, 1) as many:
        loaded = await many.poisson(slow, 1e6, count=1, seed=1)
    assert loaded.samples[0].first >= 0.1 + STEP
