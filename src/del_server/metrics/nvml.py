"""How full NVIDIA's GPUs are, as their driver tells it through NVML: of any process, and without taking memory there.

Called through ctypes, so that nothing more must be installed. Knows nothing of CUDA or PyTorch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

_LIBRARY, _VISIBLE = "libnvidia-ml.so.1", "CUDA_VISIBLE_DEVICES"


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Driver:
    """The GPUs that this process may use. visible: as in CUDA_VISIBLE_DEVICES, None for all of the machine's."""

    def __init__(self, library: Any, visible: str | None) -> None:
        self._library = library
        self._handles = self._found(visible)

    @classmethod
    def load(cls) -> Driver | None:
        """None where there is no driver."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            return None
        return cls(library, os.environ.get(_VISIBLE)) if library.nvmlInit_v2() == 0 else None

    def memory(self) -> Sequence[tuple[int, int]]:
        """Bytes that are taken and that there are, of each GPU in turn; (0, 0) of one that doesn't answer."""
        found = []
        for handle in self._handles:
            memory = _Memory()
            failed = self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            found.append((0, 0) if failed else (memory.used, memory.total))
        return found

    def _found(self, visible: str | None) -> list[ctypes.c_void_p]:
        if visible is None:
            count = ctypes.c_uint()
            self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
            names = [str(index) for index in range(count.value)]
        else:
            names = [name.strip() for name in visible.split(",")]
        handles = []
        for name in names:
            handle = ctypes.c_void_p()
            if name.isdecimal():
                failed = self._library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
            else:
                failed = self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
            if failed:  # as CUDA does: what comes after a name that is none is not visible
                break
            handles.append(handle)
        return handles
