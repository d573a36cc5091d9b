"""/v1/chat/completions and /v1/completions: from a request to its answer, whole or streamed.

A caller that leaves, before the first token or after it, has its answers cancelled on the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from del_client.gateway.asked import Asked, read_chat, read_text
from del_client.gateway.bodies import read_json
from del_client.gateway.errors import ApiError, api_error
from del_client.gateway.models import check_model, served_name
from del_client.gateway.served import Served
from del_client.gateway.settings import GatewaySettings
from del_client.gateway.shapes import ChatShape, Shape, TextShape
from del_client.gateway.state import GatewayState, state_of
from del_client.gateway.turn import turns_of

T = TypeVar("T")
Read = Callable[[Mapping[str, Any]], Asked]
CALLER_LEFT = 499


async def chat_completions(request: Request) -> Response:
    """The next message of a chat."""
    return await _counted(request, "chat", read_chat, ChatShape)


async def text_completions(request: Request) -> Response:
    """What comes after a text."""
    return await _counted(request, "text", read_text, TextShape)


async def _counted(request: Request, kind: str, read: Read, shape: type[Shape]) -> Response:
    state = state_of(request)
    status = CALLER_LEFT
    try:
        response = await _answered(request, state, read, shape)
        status = response.status_code
    except Exception as error:
        refused = api_error(error, shape.prompt_field)
        status = refused.status
        raise refused from error
    finally:
        state.metrics.answered(kind, status)
    return response


async def _answered(request: Request, state: GatewayState, read: Read, shape: type[Shape]) -> Response:
    asked = read(await read_json(request, state.settings))
    client = await state.link.client()
    check_model(client, state.settings.models, asked.model)
    turns = turns_of(client, state.history(client), state.settings, asked)
    shown = shape(served_name(client), client.table.fingerprint, client.reader.tokenizer)
    served = Served(state, client, asked, turns, shown)
    try:
        if asked.stream:
            await _unless_left(request, served.started())
            return _Stream(served, state.settings)
        response = JSONResponse(await _unless_left(request, served.whole()))
    except BaseException:
        await served.close()
        raise
    await served.close()
    return response


async def _unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. It is cancelled, and ApiError raised, if the caller leaves first."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(CALLER_LEFT, "the caller left")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Wait for the caller to leave."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(EventSourceResponse):
    """Server-sent events; whatever ends the stream ends the answers."""

    def __init__(self, served: Served, settings: GatewaySettings) -> None:
        self._served = served
        super().__init__(served.events(), ping=settings.ping_seconds, sep="\n")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._served.close()
