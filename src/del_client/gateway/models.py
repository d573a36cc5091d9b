"""/v1/models, /health and /metrics: what is served, and how this gateway does."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from del_client.client import AsyncClient
from del_client.gateway.errors import ApiError
from del_client.gateway.state import state_of
from del_client.terminal import one_line


async def list_models(request: Request) -> Response:
    """The served model, and the names that stand for it."""
    state = state_of(request)
    client = await state.link.client()
    served = served_name(client)
    names = [served, *(name for name in state.settings.models if name not in ("*", served))]
    return JSONResponse({"object": "list", "data": [_model(name) for name in names]})


async def one_model(request: Request) -> Response:
    """One of them."""
    state = state_of(request)
    client = await state.link.client()
    name = request.path_params["name"]
    check_model(client, state.settings.models, name)
    return JSONResponse(_model(name))


async def health(request: Request) -> Response:
    """That the gateway answers, and whether it has met its server; asks the server nothing."""
    return JSONResponse({"status": "ok", "connected": state_of(request).link.opened is not None})


async def show_metrics(request: Request) -> Response:
    """The gateway's metrics, for Prometheus."""
    return Response(state_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


def served_name(client: AsyncClient) -> str:
    """What the server calls its model."""
    return one_line(client.info.model)


def check_model(client: AsyncClient, others: tuple[str, ...], name: str) -> None:
    """Raise ApiError for a name that doesn't stand for the served model."""
    served = served_name(client)
    if name != served and name not in others and "*" not in others:
        raise ApiError(
            404,
            f"no model {name!r} here: use {served!r}, or start the gateway with --model {name!r} for that",
            param="model",
            code="model_not_found",
        )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "del"}
