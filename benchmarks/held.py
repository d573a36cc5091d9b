"""What a process holds: memory, threads, files, tasks; and how fast that grows. Knows nothing of servers or devices."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.server_process import resident_bytes

CONFIDENCE = 0.95
UNITS = {
    "resident memory": "MiB",
    "native memory": "MiB",
    "Python blocks": "blocks",
    "threads": "",
    "files": "",
    "tasks": "",
}


def held() -> dict[str, float]:
    """Of this process, in UNITS; tasks are those of the event loop that it is called in."""
    gc.collect()
    return {
        "resident memory": resident_bytes(os.getpid()) / 2**20,
        "native memory": native_bytes() / 2**20,
        "Python blocks": float(sys.getallocatedblocks()),
        "threads": float(threading.active_count()),
        "files": float(len(os.listdir("/proc/self/fd")) - 1),
        "tasks": float(len(asyncio.all_tasks())),
    }


_BEFORE = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")


class _Mallinfo2(ctypes.Structure):
    """Of mallinfo2(3)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*_BEFORE, "uordblks", "fordblks", "keepcost"))


def native_bytes() -> int:
    """What malloc has handed out and not got back, in all its arenas; what it keeps for itself is not in it.

    0 where the C library cannot tell.
    """
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _Mallinfo2
    said = mallinfo2()
    return int(said.uordblks) + int(said.hblkhd)


@dataclass(frozen=True, slots=True)
class Drift:
    """What a quantity grows by in an hour: between low and high with CONFIDENCE. level: its mean."""

    slope: float
    low: float
    high: float
    level: float


def drift(hours: Sequence[float], values: Sequence[float]) -> Drift:
    """The line of least squares through values that were read at these times, three at least.

    What is left beside the line is often alike from one reading to the next, and would make the interval look surer
    than it is; so n readings count as n (1 - r) / (1 + r), r the correlation of a remainder with the one before
    (Santer et al., J. Geophys. Res. 105, 2000, equations 5 and 6).
    """
    x, y = np.asarray(hours, dtype=float), np.asarray(values, dtype=float)
    line = stats.linregress(x, y)
    slope, rest = float(line.slope), y - (line.slope * x + line.intercept)
    power = float(rest @ rest)
    together = min(max(float(rest[1:] @ rest[:-1]) / power, 0.0), 0.99) if power else 0.0
    freedom = max(len(x) * (1 - together) / (1 + together) - 2, 1.0)
    deviation = math.sqrt(power / freedom / float(((x - x.mean()) ** 2).sum()))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * deviation
    return Drift(slope, slope - reach, slope + reach, float(y.mean()))
