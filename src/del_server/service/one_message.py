"""Calls of one request that close without it: refused, where grpc.aio would never answer. Knows no method."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from del_codec.errors import InvalidValue
from del_server.service.aborting import abort
from del_server.service.handlers import Handler, behaviour_of
from del_server.status import problem_of


class OneMessage(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Takes a call's request from a stream of them. Put it after all others: they see calls of many requests."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of the method; one of many requests as it is."""
        handler = await continuation(handler_call_details)
        return handler if handler is None or handler.request_streaming else _of_first(handler)


def _of_first(handler: Handler) -> Handler:
    behaviour = behaviour_of(handler)

    async def answer(requests: AsyncIterator[Any], context: Any) -> Any:
        return await behaviour(await _first(requests, context), context)

    async def answers(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for response in behaviour(await _first(requests, context), context):
            yield response

    make: Any = (
        grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    )
    chosen = answers if inspect.isasyncgenfunction(behaviour) else answer
    new: Handler = make(chosen, handler.request_deserializer, handler.response_serializer)
    return new


async def _first(requests: AsyncIterator[Any], context: Any) -> Any:
    async for request in requests:
        return request
    return await abort(context, problem_of(InvalidValue("message", "none", "send one before closing the call")))
