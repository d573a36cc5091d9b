"""Guard: who is answered at all, before anything of a request is read; and the headers that every answer has.

A web page that someone visits can send requests to this device, too. It is kept out by the Host header (its own name,
made to point here: DNS rebinding), by Origin and Sec-Fetch-Site (a request from another site), and by no answer ever
having a CORS header. Knows nothing of what is asked.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from del_client.gateway.errors import DENIED, ApiError
from del_client.gateway.settings import GatewaySettings

# The strictest that there is, for answers that are no page; a page's own headers go before these.
HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_ELSEWHERE = "requests from other sites are refused; if you followed a link, type the address instead"
# An IPv6 address in brackets, or a name or another address; and a port. Nothing else that a URL may have.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


class Guard:
    """ASGI middleware. open_paths: answered without the token."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, open_paths: Collection[str]) -> None:
        self._app = app
        self._hosts = settings.hosts
        self._token = None if settings.token is None else settings.token.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse to."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        app = self._app if refusal is None else refusal.response()
        await app(scope, receive, _with_headers(send))

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in self._hosts:
            return ApiError(403, f"no such host here: {host!r}; allow its name if it is yours", code="host_not_allowed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return ApiError(403, _ELSEWHERE, code="origin_not_allowed")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return ApiError(403, _ELSEWHERE, code="origin_not_allowed")
        if self._token is not None and path not in self._open_paths and not self._shown(headers):
            return ApiError(
                401,
                "show this gateway's token: Authorization: Bearer TOKEN (api_key in OpenAI's clients)",
                kind=DENIED,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return None

    def _shown(self, headers: Headers) -> bool:
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), self._token or b"")


def _name(host: str) -> str:
    """The name in a Host header, in lower case, without the port and an IPv6 address's brackets."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
