"""Tracing of calls: an interceptor that tells Tracing of a service's calls, with their metadata. Knows no spans."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from del_server.service.handlers import Handler, behaviour_of, remade
from del_server.tracing import Tracing


class CallTracing(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """What a call starts is part of it. Calls that yield their responses, downloads that is, are left alone."""

    def __init__(self, tracing: Tracing, service: str) -> None:
        self._tracing, self._prefix = tracing, f"/{service}/"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of the method, traced; one that isn't the service's as it is."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        behaviour = behaviour_of(handler)
        if inspect.isasyncgenfunction(behaviour):
            return handler
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}

        async def answer(request: Any, context: Any) -> Any:
            with self._tracing.call(method, metadata):
                return await behaviour(request, context)

        return remade(handler, answer, behaviour)
