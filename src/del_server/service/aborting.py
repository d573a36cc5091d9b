"""Ending a whole call with an error, as gRPC and google.rpc say it."""

from __future__ import annotations

from typing import Any, Never, TypeAlias

import grpc
from grpc_status import rpc_status

from del_server.service.messages import status_to_pb
from del_server.status import Problem

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


async def abort(context: Context, problem: Problem) -> Never:
    """End a call with a status and google.rpc's details."""
    status = rpc_status.to_status(status_to_pb(problem))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise RuntimeError("abort raises")
