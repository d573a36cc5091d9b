"""How long the threads that share torch's work stay awake between two pieces of it. Knows nothing of torch's work."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# A server has more such threads than cores (each thread that computes brings its own), and libgomp then lets them turn
# 100 times before they sleep: between any two operations of a step. 1,000 turns, some 50 µs, outlast the Python in
# between. Without more threads than cores it is 300,000, for which a core is lost to others.
SETTINGS = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000"}


def stay_awake() -> None:
    """Set it for torch where it brings GNU's OpenMP, unless somebody chose otherwise; before torch is imported."""
    if not SETTINGS.keys() & os.environ.keys() and _brings_libgomp():
        os.environ.update(SETTINGS)


def _brings_libgomp() -> bool:
    """Other OpenMPs take `active` for waiting without end."""
    found = importlib.util.find_spec("torch")
    return found is not None and any(Path(found.origin or "").parent.glob("lib/libgomp*"))
