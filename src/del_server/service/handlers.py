"""Handlers of gRPC's methods, made anew around what they do: for interceptors. Knows nothing of any method."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Answer = Callable[[Any, Any], Awaitable[Any]]
Answers = Callable[[Any, Any], AsyncIterator[Any]]


def behaviour_of(handler: Handler) -> Any:
    """What a handler calls with a request, or its requests, and the context."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def remade(handler: Handler, answer: Answer, answers: Answers) -> Handler:
    """The same handler with another behaviour: `answers` where the former yields its responses, else `answer`."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    # gRPC tells generators from coroutines by their kind.
    behaviour = answers if inspect.isasyncgenfunction(behaviour_of(handler)) else answer
    new: Handler = make(behaviour, handler.request_deserializer, handler.response_serializer)
    return new
