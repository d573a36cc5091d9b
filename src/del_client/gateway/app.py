"""The gateway as a Starlette app: its routes, and what stands before all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute, Route

from del_client.gateway.completions import chat_completions, text_completions
from del_client.gateway.errors import ApiError, answer_error
from del_client.gateway.guard import Guard
from del_client.gateway.link import Link
from del_client.gateway.metrics import GatewayMetrics
from del_client.gateway.models import health, list_models, one_model, show_metrics
from del_client.gateway.settings import GatewaySettings
from del_client.gateway.state import GatewayState
from del_codec.errors import DelError

OPEN_PATHS = ("/health",)


def create_app(
    link: Link,
    settings: GatewaySettings,
    routes: Sequence[BaseRoute] = (),
    open_paths: Collection[str] = (),
    metrics: GatewayMetrics | None = None,
) -> Starlette:
    """The app; it closes the link when it is shut down.

    routes: more of them, such as a page's. They are guarded like all others; `request.app.state.gateway` is theirs,
    too. open_paths: those of them that are answered without the token: only what is the same for everybody. metrics:
    those whose `device` watches the link's client; None: new ones.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await link.close()

    app = Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/metrics", show_metrics, methods=["GET"]),
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", text_completions, methods=["POST"]),
            Route("/v1/models", list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", one_model, methods=["GET"]),
            *routes,
        ],
        # Starlette itself answers what nobody foresaw outside of all middleware, where the guard adds no headers.
        middleware=[
            Middleware(Guard, settings=settings, open_paths=(*OPEN_PATHS, *open_paths)),
            Middleware(ServerErrorMiddleware, handler=answer_error),
        ],
        exception_handlers=dict.fromkeys((ApiError, DelError, HTTPException), answer_error),
        lifespan=lifespan,
    )
    app.state.gateway = GatewayState(link, settings, metrics or GatewayMetrics())
    return app
