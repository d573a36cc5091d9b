"""The page's files, read once, each under one path, with headers that let it do no more than it needs.

Nothing here depends on who asks, so these paths need no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# No inline code or style, nothing from elsewhere; and no text of an answer can become markup (Trusted Types).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "permissions-policy": "camera=(), microphone=(), geolocation=(), clipboard-read=()",
}


def page_files() -> dict[str, tuple[str, str]]:
    """(media type, text) of each file, by its path on the gateway."""
    found = {}
    for file in sorted(files("del_client.web").joinpath("static").iterdir(), key=lambda one: one.name):
        media_type = _TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            found["/" if file.name == "index.html" else f"/page/{file.name}"] = media_type, file.read_text("utf-8")
    return found


def page_routes() -> list[Route]:
    """A route for each file."""
    return [_route(path, media_type, text) for path, (media_type, text) in page_files().items()]


def _route(path: str, media_type: str, text: str) -> Route:
    async def show(_: Request) -> Response:
        return Response(text, media_type=media_type, headers=_HEADERS)

    return Route(path, show, methods=["GET"])
