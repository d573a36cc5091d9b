"""Memory of the GPUs that this process uses, read at every scrape; nothing where there are none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_FIGURES = {
    "del_server_gpu_memory_allocated_bytes": "GPU memory of this process's tensors.",
    "del_server_gpu_memory_reserved_bytes": "GPU memory that this process holds for tensors.",
    "del_server_gpu_memory_used_bytes": "GPU memory that all processes take.",
    "del_server_gpu_memory_total_bytes": "GPU memory that there is.",
}


class GpuMemory(Collector):
    """Four gauges for each GPU, told apart by its number as PyTorch counts."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Their names."""
        return _families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Their values. A GPU on which this process has nothing is left alone: to ask would take memory there."""
        families = _families()
        count = torch.cuda.device_count() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
        for device in range(count):
            reserved = torch.cuda.memory_reserved(device)
            if not reserved:
                continue
            free, total = torch.cuda.mem_get_info(device)
            values = (torch.cuda.memory_allocated(device), reserved, total - free, total)
            for family, value in zip(families, values, strict=True):
                family.add_metric([str(device)], value)
        return families


def _families() -> list[GaugeMetricFamily]:
    return [GaugeMetricFamily(name, help_text, labels=["device"]) for name, help_text in _FIGURES.items()]
