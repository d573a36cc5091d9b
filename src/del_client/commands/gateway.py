"""`del-client gateway`: OpenAI's HTTP interface on this device, for apps that know no other."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys

from del_client.client import AsyncClient
from del_client.commands.arguments import read_access, read_options, read_policy, read_shaping
from del_client.options import Options
from del_client.retrying import Patience
from del_codec.errors import DelError

_PATIENCE_SECONDS = 5.0
_NEEDED = ("starlette", "uvicorn", "sse_starlette", "prometheus_client")


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to leave; 0."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DelError(f"{', '.join(missing)} not installed: pip install 'del-inference[gateway]'")
    options = read_options(arguments)
    Options(**options)
    asyncio.run(_serve(arguments))
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    from del_client.gateway.app import create_app
    from del_client.gateway.link import Link
    from del_client.gateway.metrics import GatewayMetrics
    from del_client.gateway.serving import listen, serve
    from del_client.gateway.settings import GatewaySettings, read_digests, read_token
    from del_client.web.routes import open_paths, web_routes

    settings = GatewaySettings(
        host=arguments.host,
        port=arguments.port,
        token=None if arguments.token_file is None else read_token(arguments.token_file),
        names=tuple(arguments.allow_host),
        models=tuple(arguments.model),
        public=frozenset() if arguments.public_texts is None else read_digests(arguments.public_texts),
        options=read_options(arguments),
    )
    policy, shaping, access = read_policy(arguments), read_shaping(arguments), read_access(arguments)
    metrics = GatewayMetrics()
    link = Link(
        lambda: AsyncClient(
            arguments.server,
            policy=policy,
            ledger=arguments.ledger,
            tokenizer=arguments.tokenizer,
            chat_template=arguments.chat_template,
            patience=Patience(_patience(arguments)),
            shaping=shaping,
            access=access,
            watch=metrics.device.answered,
        )
    )
    with listen(settings.host, settings.port) as listener:
        app = create_app(link, settings, web_routes(), open_paths(), metrics)
        await serve(app, listener, _tell)


def _patience(arguments: argparse.Namespace) -> float:
    """An app has a patience of its own, and wants to be told soon."""
    if arguments.config.sources["patience"] == "default":
        return _PATIENCE_SECONDS
    return float(arguments.patience)


def _tell(address: str) -> None:
    sys.stdout.write(f"del-client gateway ready on {address}\n")
    sys.stdout.flush()
