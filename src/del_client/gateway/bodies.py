"""A request's body as JSON, bounded in size, time and depth before anything looks at it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from del_client.gateway.errors import ApiError
from del_client.gateway.settings import GatewaySettings


async def read_json(request: Request, settings: GatewaySettings) -> dict[str, Any]:
    """The object that a request holds.

    Raises ApiError: 415 for another content type (a web page may send text/plain anywhere without being asked), 413
    for more bytes than the settings allow, 408 where they take too long, 400 for what is not JSON, is nested deeper
    than Python reads, holds half a character, or is no object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send it as application/json", code="unsupported_media_type")
    try:
        async with asyncio.timeout(settings.body_seconds):
            data = await _read(request, settings.body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body took longer than {settings.body_seconds:g} s", code="timed_out") from None
    except ClientDisconnect:
        raise ApiError(400, "the connection ended inside of the body", code="invalid_json") from None
    return parse(data)


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise ApiError(413, f"a request has at most {most} bytes", code="request_too_large")
    return bytes(data)


def parse(data: bytes) -> dict[str, Any]:
    """The object in some bytes; ApiError as `read_json`."""
    try:
        value = json.loads(data.decode(), parse_constant=_no_number)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text, and fails here
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error})", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
