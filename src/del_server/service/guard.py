"""The guard: no call gets past it without a caller, but those that anyone may make. An interceptor.

What it lets in finds its visit in VISIT, which each call has for itself.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from del_codec.errors import DelError
from del_codec.protocol import METADATA_KEY, check_client
from del_server.access.caller import HERE, Shown
from del_server.access.visit import Gatehouse, Visit
from del_server.logs import fields
from del_server.metrics import Metrics
from del_server.service.aborting import abort
from del_server.service.handlers import Handler, behaviour_of, remade
from del_server.status import problem_of

logger = logging.getLogger(__name__)
VISIT: ContextVar[Visit] = ContextVar("VISIT")
_SCHEME = "Bearer "
Gate = Callable[[Shown], contextlib.AbstractContextManager[Visit | None]]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """open_to_all: prefixes of the methods that need no caller."""

    def __init__(self, gatehouse: Gatehouse, metrics: Metrics, open_to_all: tuple[str, ...]) -> None:
        self._gatehouse, self._metrics, self._open = gatehouse, metrics, open_to_all

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of the method, guarded."""
        handler = await continuation(handler_call_details)
        passing = handler_call_details.method.startswith(self._open)
        gate: Gate = self._gatehouse.passing if passing else self._gatehouse.visit
        return handler if handler is None else self._guarded(handler, gate)

    def _guarded(self, handler: Handler, gate: Gate) -> Handler:
        behaviour = behaviour_of(handler)

        async def answer(request: Any, context: Any) -> Any:
            async with self._through(gate, context):
                return await behaviour(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._through(gate, context):
                async for response in behaviour(request, context):
                    yield response

        return remade(handler, answer, answers)

    @contextlib.asynccontextmanager
    async def _through(self, gate: Gate, context: Any) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            shown = shown_by(context)
            try:
                check_client(_metadata(context, METADATA_KEY))
                visit = stack.enter_context(gate(shown))
            except DelError as error:
                problem = problem_of(error)
                self._metrics.refuse(problem)
                logger.info("call refused", extra=fields(host=shown.host or HERE, reason=problem.reason))
                await abort(context, problem)
            if visit is not None:
                VISIT.set(visit)
            yield


def shown_by(context: Any) -> Shown:
    """What a call shows of its maker."""
    facts = context.auth_context()
    encrypted = bytes(*facts.get("transport_security_type", [b""])) == b"ssl"
    subject = next(iter(facts.get("x509_subject", [])), b"").decode(errors="replace")
    return Shown(host_of(context.peer()), encrypted, subject, _token(context))


def host_of(peer: str) -> str:
    """The host of gRPC's name for a peer; "" for this machine."""
    kind, _, address = peer.partition(":")
    host = urllib.parse.unquote(address).rpartition(":")[0].strip("[]")
    if kind == "unix":
        return ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return peer
    mapped = getattr(number, "ipv4_mapped", None)
    return "" if (mapped or number).is_loopback else str(mapped or number)


def _token(context: Any) -> str:
    value = _metadata(context, "authorization")
    return value.removeprefix(_SCHEME) if value.startswith(_SCHEME) else ""


def _metadata(context: Any, name: str) -> str:
    """The first value of that name; "" for none."""
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return ""
