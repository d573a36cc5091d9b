"""GatewayState: what the gateway's endpoints share."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request

from del_client.client import AsyncClient
from del_client.gateway.history import History
from del_client.gateway.link import Link
from del_client.gateway.metrics import GatewayMetrics
from del_client.gateway.settings import GatewaySettings


@dataclass(slots=True)
class GatewayState:
    """One gateway's client, settings, metrics, and what it remembers."""

    link: Link
    settings: GatewaySettings
    metrics: GatewayMetrics
    _histories: dict[str, History] = field(default_factory=dict)

    def history(self, client: AsyncClient) -> History:
        """What is remembered in a client's tokens; ids of another tokenizer's mean nothing to it."""
        tokenizer = client.table.spec.tokenizer_sha256
        if tokenizer not in self._histories:
            self._histories[tokenizer] = History(self.settings.remembered_lists, self.settings.remembered_chars)
        return self._histories[tokenizer]


def state_of(request: Request) -> GatewayState:
    """The state of the gateway that a request came to."""
    state: GatewayState = request.app.state.gateway
    return state
