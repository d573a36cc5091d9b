"""Health, as gRPC tells it: live (or to be restarted) and ready (to be sent queries) apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc_health.v1 import health, health_pb2

LIVE, READY = "live", "ready"
SECONDS = 1.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class HealthReport:
    """Tells gRPC's health service what the engine says of itself.

    LIVE: the engine's latest step succeeded, and lately. READY, the service's own name and the empty one: that, and
    queries are taken. alive: asked each second.
    """

    def __init__(self, alive: Callable[[], bool], service: str) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._alive, self._ready = alive, (READY, service, "")
        self._leaving = False

    async def keep_telling(self) -> None:
        """Until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(SECONDS)

    async def tell(self) -> None:
        """Once, now."""
        alive = self._alive()
        await self.servicer.set(LIVE, _SERVING if alive else _NOT_SERVING)
        for name in self._ready:
            await self.servicer.set(name, _SERVING if alive and not self._leaving else _NOT_SERVING)

    async def leave(self) -> None:
        """No longer ready, from now on."""
        self._leaving = True
        await self.tell()
