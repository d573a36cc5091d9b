"""The page's routes, to be handed to the gateway's app, and those of them that need no token."""

from __future__ import annotations

from starlette.routing import Route

from del_client.web.api import api_routes
from del_client.web.pages import page_files, page_routes


def web_routes() -> list[Route]:
    """All of them."""
    return [*page_routes(), *api_routes()]


def open_paths() -> tuple[str, ...]:
    """Files that are the same for everybody."""
    return tuple(page_files())
