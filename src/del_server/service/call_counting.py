"""Counting of calls as gRPC servers do: an interceptor that watches each call's messages, code and time.

Knows nothing of what is called, nor where the counts go beyond CallMetrics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from del_server.metrics.calls import CODES, CallMeter, CallMetrics, Method
from del_server.service.handlers import Handler, behaviour_of, remade

# The stubs lack it.
EOF = grpc.aio.EOF  # type: ignore[attr-defined]
_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def methods_of(services: Sequence[ServiceDescriptor]) -> list[Method]:
    """What CallMetrics needs to know of them."""
    return [_method(service, method) for service in services for method in service.methods]


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    return Method(_KINDS[method.client_streaming, method.server_streaming], service.full_name, method.name)


class CallCounting(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Put it before all others, so that it counts what they refuse."""

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of the method, watched; one that isn't known as it is."""
        handler = await continuation(handler_call_details)
        meter = self._metrics.meter(handler_call_details.method)
        return handler if handler is None or meter is None else _watched(handler, meter)


class _Context:
    """A call's context that counts what is read from it and written to it."""

    def __init__(self, context: Any, meter: CallMeter) -> None:
        self._context, self._meter = context, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next request, or gRPC's mark of the end."""
        message = await self._context.read()
        if message is not EOF:
            self._meter.received.inc()
        return message

    async def write(self, message: Any) -> None:
        """Send a response."""
        await self._context.write(message)
        self._meter.sent.inc()


def _watched(handler: Handler, meter: CallMeter) -> Handler:
    """The same handler with its behaviour wrapped."""
    behaviour = behaviour_of(handler)

    def begin(request: Any) -> Any:
        if handler.request_streaming:
            return _counted(request, meter)
        meter.received.inc()
        return request

    async def answer(request: Any, context: Any) -> Any:
        with timed(context, meter):
            response = await behaviour(begin(request), _Context(context, meter))
            if not handler.response_streaming:
                meter.sent.inc()
            return response

    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        with timed(context, meter):
            async for response in behaviour(begin(request), _Context(context, meter)):
                meter.sent.inc()
                yield response

    return remade(handler, answer, answers)


async def _counted(requests: AsyncIterator[Any], meter: CallMeter) -> AsyncIterator[Any]:
    async for request in requests:
        meter.received.inc()
        yield request


def _code(context: Any) -> int:
    """The number that was set, which gRPC keeps as it was given; 0 where none was."""
    code = context.code()
    return code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)


@contextmanager
def timed(context: Any, meter: CallMeter) -> Iterator[None]:
    """Count the begin of the call that a context is of, and its end by its code."""
    meter.started.inc()
    started = time.perf_counter()
    code = 0
    try:
        yield
        code = _code(context)
    except (asyncio.CancelledError, GeneratorExit):
        late = context.time_remaining() is not None and context.time_remaining() <= 0
        code = CODES.index("DeadlineExceeded" if late else "Canceled")
        raise
    except BaseException:
        code = _code(context) or CODES.index("Unknown")
        raise
    finally:
        meter.seconds.observe(time.perf_counter() - started)
        meter.handled[code].inc()
