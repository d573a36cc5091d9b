"""Families of metrics, the quick bound on epsilon that feeds one, the memory of GPUs, and the page about them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from del_codec.accounting import epsilon_of
from del_codec.composition import MAX_SETTINGS, epsilon_bound
from del_codec.meters import SECONDS, Meters
from del_codec.release import HALF, MAX_DRAWS, Release
from del_server.metrics.gpu import GpuMemory

GIGA = 1 << 30
GENERATOR = Path(__file__).parents[2] / "deploy" / "generate_metrics.py"


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


def test_gpus_that_the_process_uses_have_their_memory_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: (0, 3 * GIGA)[device])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIGA)

    def asked(device: int) -> tuple[int, int]:
        assert device == 1  # asking takes memory on a GPU that isn't in use
        return 70 * GIGA, 80 * GIGA

    monkeypatch.setattr(torch.cuda, "mem_get_info", asked)
    registry = CollectorRegistry()
    registry.register(GpuMemory())
    values = {
        sample.name.removeprefix("del_server_gpu_memory_"): sample.value / GIGA
        for family in registry.collect()
        for sample in family.samples
        if sample.labels == {"device": "1"}
    }
    assert values == {"allocated_bytes": 2, "reserved_bytes": 3, "used_bytes": 10, "total_bytes": 80}


def test_without_cuda_no_gpu_has_a_row() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("this process uses CUDA")
    assert [sample for family in GpuMemory().collect() for sample in family.samples] == []


def test_the_page_is_what_the_code_gives() -> None:
    spec = importlib.util.spec_from_file_location("generate_metrics", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
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
