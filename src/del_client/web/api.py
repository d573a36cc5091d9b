"""What the page asks of the gateway beside answers: the dial's facts, a draft's reading, and the budget.

Reading a draft sends nothing and spends nothing. No text is logged. Knows nothing of how any of it is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from del_client.client import AsyncClient
from del_client.defaults import CEILING_MU_MILLI, RULE, range_warning
from del_client.gateway.asked import Said, read_chat
from del_client.gateway.bodies import read_json
from del_client.gateway.errors import ApiError
from del_client.gateway.fields import Fields, wrong_type
from del_client.gateway.settings import GatewaySettings
from del_client.gateway.state import GatewayState, state_of
from del_client.gateway.turn import is_known
from del_client.measured import Verdict
from del_client.message import Message
from del_client.options import OptionArguments, read_options
from del_client.reading import Chip, DraftReading, PlaceholderChip, TokenChip
from del_client.spending import Budget, budget
from del_client.terminal import safe
from del_client.web.previews import Previews
from del_codec.errors import InvalidValue
from del_codec.noise import MAX_BITS
from del_codec.spec import Measured

Json = dict[str, Any]
MAX_PAGE_CHARS = 64
MAX_EARLIER = 4096
MAX_READ_CHARS = 1 << 16
_EARLIER_ROLES = ("user", "assistant")


def api_routes() -> list[Route]:
    """The routes; they share the previews."""
    previews = Previews()

    async def show_reading(request: Request) -> Response:
        state = state_of(request)
        fields = Fields(await read_json(request, state.settings))
        page, chat = _page(fields), _chat(fields, state.settings)
        options = read_options({**state.settings.options, **_noise(fields.fields("del"))})
        fields.finish({})
        client = await state.link.client()
        reading = await asyncio.to_thread(previews.read, page, client, chat, options)
        return JSONResponse(_reading(client, reading))

    return [
        Route("/del/known", _show_known, methods=["POST"]),
        Route("/del/dial", _show_dial, methods=["GET"]),
        Route("/del/budget", _show_budget, methods=["GET"]),
        Route("/del/reading", show_reading, methods=["POST"]),
    ]


async def _show_dial(request: Request) -> Response:
    state = state_of(request)
    client = await state.link.client()
    return JSONResponse({**_dial(state, client), "online": await client.answers()})


async def _show_budget(request: Request) -> Response:
    client = await state_of(request).link.client()
    found = await asyncio.to_thread(budget, client.ledger, client.policy, "day", 1)
    return JSONResponse(_budget(found))


async def _show_known(request: Request) -> Response:
    """Whether a chat, as /v1/chat/completions takes it, is remembered whole."""
    state = state_of(request)
    asked = read_chat(await read_json(request, state.settings))
    client = await state.link.client()
    return JSONResponse({"known": is_known(state.history(client), asked)})


def _dial(state: GatewayState, client: AsyncClient) -> Json:
    """Model and codec, where the dial stands by itself and why, and what was measured."""
    spec = client.table.spec
    default = read_options(state.settings.options).setting(spec)
    return {
        "server": client.server,
        "model": client.info.model,
        "codec": client.table.fingerprint,
        "dim": spec.dim,
        "embedding_width": spec.embedding_width,
        "default": {"mu": round(default.mu(spec.dim), 3), "bits": default.bits},
        "rule": RULE if state.settings.options.get("mu") is None else None,
        "ceiling": CEILING_MU_MILLI / 1000,
        "trained": [spec.mu_milli_min / 1000, spec.mu_milli_max / 1000],
        "measured": [_measured(row) for row in spec.measured],
        "kinds": {kind.name: kind.mode for kind in client.policy.kinds.values()},
    }


def _reading(client: AsyncClient, reading: DraftReading) -> Json:
    dim = client.table.spec.dim
    privacy, mu = reading.privacy, round(reading.setting.mu(dim), 3)
    return {
        "mu": mu,
        "bits": reading.setting.bits,
        "dim": dim,
        "warning": range_warning(client.table.spec, mu),
        "chips": [_chip(chip, dim) for chip in reading.chips],
        "tokens": {
            "private": reading.private_tokens,
            "public": reading.public_tokens,
            "earlier": reading.earlier_tokens,
        },
        "bytes": {
            "payload": reading.payload_bytes,
            "wire": reading.wire_bytes,
            "text": reading.text_bytes,
            "fp16": reading.fp16_bytes,
        },
        "privacy": asdict(privacy) | {"secrets": [asdict(row) | {"named": row.named} for row in privacy.secrets]},
        "verdict": _verdict(reading.verdict),
    }


def _chip(chip: Chip, dim: int) -> Json:
    common = {"text": safe(chip.text), "kind": chip.kind}
    if isinstance(chip, TokenChip):
        return common | {
            "mu": round(chip.setting.mu(dim), 3),
            "n": chip.setting.bits,
            "bits": chip.look.bits.hex(),
            "guess": safe(chip.guess),
            "posterior": round(chip.look.posterior, 4),
            "right": chip.right,
        }
    if isinstance(chip, PlaceholderChip):
        return common | {"leaves": safe(chip.leaves), "ids": chip.tokens}
    raise TypeError(f"no such chip: {type(chip).__name__}")


def _verdict(found: Verdict) -> Json:
    row = None if found.row is None else _measured(found.row)
    return {"protection": found.protection, "text": found.text, "row": row}


def _measured(row: Measured) -> Json:
    return {
        "mu": row.mu_milli / 1000,
        "bits": row.bits,
        "attack": row.attack_success / 1000,
        "retained": row.retained / 1000,
    }


def _budget(found: Budget) -> Json:
    """Of today: what was given away, and what each limit leaves."""
    today = next((row for row in found.rows if row.name == str(found.day)), None)
    return {
        "delta": found.delta,
        "today": None
        if today is None
        else {"prompts": today.prompts, "tokens": today.tokens, "rho": today.rho, "epsilon": today.epsilon},
        "left": [
            {
                "quantity": one.quantity,
                "spent": one.spent,
                "bound": one.bound,
                "left": one.left,
                "tokens": one.tokens,
                "mu": round(one.mu, 3),
            }
            for one in found.left
            if one.unit == "day"
        ],
    }


def _page(fields: Fields) -> str:
    page = fields.needed_text("page")
    if not 1 <= len(page) <= MAX_PAGE_CHARS:
        raise ApiError(400, f"page has 1 to {MAX_PAGE_CHARS} characters", param="page", code="invalid_value")
    return page


def _noise(own: Fields) -> OptionArguments:
    noise: OptionArguments = {}
    mu, bits = own.number("mu"), own.whole("bits", 1, MAX_BITS)
    own.finish({})
    if mu is not None:
        noise["mu"] = mu
    if bits is not None:
        noise["bits"] = bits
    return noise


def _chat(fields: Fields, settings: GatewaySettings) -> list[Message]:
    """The earlier messages and the draft last; public are the server's own answers and what is allow-listed."""
    earlier = fields.take("earlier") or []
    if not isinstance(earlier, list) or len(earlier) > MAX_EARLIER:
        raise wrong_type("earlier", f"a list of at most {MAX_EARLIER} messages")
    said = [*(_earlier(one, index) for index, one in enumerate(earlier)), Said("user", fields.needed_text("draft"))]
    chat = [Message(one.role, one.text, public=one.role == "assistant" or settings.is_public(one.text)) for one in said]
    chars = sum(len(message.content) for message in chat)
    if chars > MAX_READ_CHARS:  # a tokenizer keeps every stream waiting meanwhile
        raise InvalidValue("draft", f"a chat of {chars} characters", f"at most {MAX_READ_CHARS} are read while written")
    return chat


def _earlier(value: Any, index: int) -> Said:
    path = f"earlier[{index}]"
    if not isinstance(value, Mapping):
        raise wrong_type(path, "an object")
    fields = Fields(value, path)
    role, content = fields.needed_text("role"), fields.needed_text("content")
    fields.finish({})
    if role not in _EARLIER_ROLES:
        raise ApiError(400, f"{path}.role: use {' or '.join(_EARLIER_ROLES)}", param=f"{path}.role")
    return Said(role, content)
