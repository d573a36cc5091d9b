"""Memory of the GPUs that this server may use, read at every scrape; nothing where there are none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from del_server.metrics.nvml import Driver

_FIGURES = {
    "del_server_gpu_memory_allocated_bytes": "GPU memory of this process's tensors.",
    "del_server_gpu_memory_reserved_bytes": "GPU memory that this process holds for tensors.",
    "del_server_gpu_memory_used_bytes": "GPU memory that all processes take.",
    "del_server_gpu_memory_total_bytes": "GPU memory that there is.",
}


class GpuMemory(Collector):
    """Four gauges for each GPU, told apart by its number among those that this process may use.

    The driver tells what is used and what there is, so that processes of replicas and of vLLM are seen, too; None
    where there is none. The two others are of this process alone.
    """

    def __init__(self, driver: Driver | None) -> None:
        self._driver = driver

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Their names."""
        return _families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Their values."""
        families = _families()
        # To ask before CUDA is in use would take memory.
        count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
        for device, (used, total) in enumerate(self._driver.memory() if self._driver else ()):
            ours = device < count
            values = (torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)) if ours else (0, 0)
            for family, value in zip(families, (*values, used, total), strict=True):
                family.add_metric([str(device)], value)
        return families


def _families() -> list[GaugeMetricFamily]:
    return [GaugeMetricFamily(name, help_text, labels=["device"]) for name, help_text in _FIGURES.items()]
