"""GatewayState: what the gateway's endpoints share."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from del_client.gateway.link import Link
from del_client.gateway.settings import GatewaySettings


@dataclass(slots=True)
class GatewayState:
    """One gateway's client and settings."""

    link: Link
    settings: GatewaySettings


def state_of(request: Request) -> GatewayState:
    """The state of the gateway that a request came to."""
    state: GatewayState = request.app.state.gateway
    return state
