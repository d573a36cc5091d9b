"""Link: the gateway's client, opened when it is first needed, and again where server and device no longer fit.

So a gateway may be started before its server is. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from del_client.client import AsyncClient


class Link:
    """Hands out one open client. `make` makes one that is not open yet."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        self._client: AsyncClient | None = None
        self._opening = asyncio.Lock()

    @property
    def opened(self) -> AsyncClient | None:
        """The client, if there is one already."""
        return self._client

    async def client(self) -> AsyncClient:
        """The open client. Raises UnavailableError where no server answers, MismatchError where it doesn't fit."""
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                client = self._make()
                await client.__aenter__()
                self._client = client
            return self._client

    async def renew(self, client: AsyncClient) -> None:
        """Have the next caller open another client than this one, whose codec the server doesn't have any more."""
        if self._client is client:
            self._client = None
            await client.__aexit__(None, None, None)

    async def close(self) -> None:
        """Close the client, if there is one."""
        if self._client is not None:
            await self.renew(self._client)
