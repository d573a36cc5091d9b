"""Families of metrics, the quick bound on epsilon that feeds one, the memory of GPUs, and the page about them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from scripts import load

from del_codec.accounting import epsilon_of
from del_codec.composition import MAX_SETTINGS, epsilon_bound
from del_codec.meters import SECONDS, Meters
from del_codec.release import HALF, MAX_DRAWS, Release
from del_server.metrics.gpu import GpuMemory
from del_server.metrics.nvml import Driver

GIGA = 1 << 30


def test_every_member_is_there_at_zero_and_no_other_can_be_had() -> None:
    meters = Meters("some")
    tokens = meters.counters("tokens", "Tokens.", "kind", ("private", "public"))
    grid = meters.counter_grid("bytes", "Bytes.", ("way", "bits"), [("in", "1"), ("out", "1")])
    meters.histograms("wait_seconds", "Waits.", "phase", ("queue",))
    page = generate_latest(meters.registry).decode()
    for line in (
        'some_tokens_total{kind="public"} 0.0',
        'some_bytes_total{bits="1",way="out"} 0.0',
        'some_wait_seconds_bucket{le="600.0",phase="queue"} 0.0',
    ):
        assert line in page
    tokens["private"].inc(3)
    grid["in", "1"].inc(2)
    assert meters.registry.get_sample_value("some_tokens_total", {"kind": "private"}) == 3
    assert meters.registry.get_sample_value("some_bytes_total", {"way": "in", "bits": "1"}) == 2
    with pytest.raises(KeyError):
        tokens["ada@example.org"].inc()
    assert (SECONDS[0], SECONDS[-1]) == (1e-3, 600)


def test_the_quick_bound_on_epsilon_is_a_bound_and_near() -> None:
    chance = random.Random(3)
    for _ in range(30):
        settings = chance.choice((1, 1, 3))
        releases = [
            Release(64 * chance.randrange(1, 200), HALF + chance.randrange(1 << 25, 1 << 30)) for _ in range(settings)
        ]
        exact = epsilon_of(releases, 1e-5)
        assert exact <= epsilon_bound(releases, 1e-5) <= 1.15 * exact + 0.1


def test_the_quick_bound_holds_for_no_release_fair_coins_and_any_number_of_settings() -> None:
    assert epsilon_bound([], 1e-5) == epsilon_bound([Release(9, HALF)], 1e-5) == 0
    many = [Release(64, HALF + (1 << 28) + step) for step in range(MAX_SETTINGS + 1)]
    weakest = [Release(64 * len(many), many[-1].threshold_max)]
    assert epsilon_bound(many, 1e-5) == epsilon_bound(weakest, 1e-5)
    assert epsilon_of(many[1:], 1e-5) < epsilon_bound(many, 1e-5)
    assert epsilon_bound(many[:1], 0) == pytest.approx(64 * float(many[0].log_odds))


class FakeNvml:
    """A driver of three GPUs; the second does not tell its memory."""

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 100 + index
        return 0 if index < 3 else 2

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        handle._obj.value = 102
        return 0 if name == b"GPU-third" else 2

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        if handle.value == 101:
            return 15
        memory._obj.total, memory._obj.used = 80 * GIGA, (handle.value - 99) * GIGA
        return 0


@pytest.mark.parametrize(
    ("visible", "used"),
    [(None, [1, 0, 3]), ("2,0", [3, 1]), ("GPU-third", [3]), ("0,7,2", [1]), ("", []), ("-1", [])],
)
def test_the_driver_tells_of_the_gpus_that_may_be_used(visible: str | None, used: list[int]) -> None:
    memory = Driver(FakeNvml(), visible).memory()
    assert [taken // GIGA for taken, _ in memory] == used
    assert all(total in (0, 80 * GIGA) for _, total in memory)


def test_gpus_have_their_memory_shown_whichever_process_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {0: (5, 6), 2: (0, 0)}
    registry = CollectorRegistry()
    registry.register(GpuMemory(Driver(FakeNvml(), "0,2")))

    def shown(device: str) -> list[float]:
        names = ("allocated", "reserved", "used", "total")
        values = [
            registry.get_sample_value(f"del_server_gpu_memory_{name}_bytes", {"device": device}) for name in names
        ]
        return [value / GIGA for value in values if value is not None]

    assert [shown(device) for device in ("0", "1", "2")] == [[0, 0, 1, 80], [0, 0, 3, 80], []]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[2 * device][0] * GIGA)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: held[2 * device][1] * GIGA)
    assert [shown(device) for device in ("0", "1")] == [[5, 6, 1, 80], [0, 0, 3, 80]]


def test_without_a_driver_no_gpu_has_a_row() -> None:
    assert [sample for family in GpuMemory(None).collect() for sample in family.samples] == []


def test_the_page_is_what_the_code_gives() -> None:
    generator = load("deploy/generate_metrics.py")
    text = generator.PAGE.read_text()
    assert generator.page(text) == text
    changed = text.replace("`del_server_tokens_total`", "`del_server_words_total`")
    assert changed != text
    assert generator.page(changed) == text


@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-12])
def test_the_bound_goes_on_where_exact_composition_ends(delta):
    last = Release(MAX_DRAWS, HALF + (1 << 15))
    exact = epsilon_of([last], delta)
    assert exact <= epsilon_bound([last], delta) <= 1.15 * exact + 0.1
    assert epsilon_bound([last, Release(1, last.threshold_max)], delta) >= exact
    doubled = epsilon_bound([last, last], delta)
    assert 2**0.5 * exact < doubled < 2 * exact
