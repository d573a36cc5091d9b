"""Serving the gateway's app with uvicorn until it is told to leave."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from starlette.applications import Starlette

from del_client.gateway.connection import Connection
from del_codec.errors import InvalidValue

_BACKLOG = 128
_GOODBYE_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InvalidValue where it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidValue("port", f"{host}:{port}", f"can't listen there ({error.strerror})") from None
    return listener


async def serve(app: Starlette, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until SIGINT or SIGTERM; answers that run then are cancelled. ready: told the address."""
    # uvicorn raises the signal again once it is done, for whoever handled it before: on SIGTERM that is the end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    ready(address_of(listener))
    await server_of(app).serve(sockets=[listener])


def server_of(app: Starlette) -> uvicorn.Server:
    """The HTTP server of an app."""
    config = uvicorn.Config(
        app,
        http=partial(Connection, settings=app.state.gateway.settings),  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
    )
    return uvicorn.Server(config)


def address_of(listener: socket.socket) -> str:
    """The URL of what listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
