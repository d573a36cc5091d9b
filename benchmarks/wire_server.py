"""The service as the wire's benchmark asks for it: one process that has a door for each way to be reached.

`python -m benchmarks.wire_server HOST CERTIFICATE KEY` serves until told to stop; its ready line has the addresses of
DOORS, in their order. A stub stands for the engine behind all of them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.stub import stubbed
from del_codec.projection import LinearDecoder, ProjectionConfig
from del_server.app import DECODERS, load, running
from del_server.backend import Backend
from del_server.codec import ServedCodec
from del_server.config import ServeConfig
from del_server.decoder import PromptDecoder
from del_server.metrics import Facts, Metrics


@dataclass(frozen=True, slots=True)
class Door:
    """tls: whether it is encrypted. decoded: by the codec's own decoder, or by one that takes next to no time."""

    tls: bool
    decoded: bool


DOORS = tuple(Door(tls, decoded) for decoded in (True, False) for tls in (False, True))


def behind(door: Door, backend: Backend) -> Backend:
    """The same server with metrics, engine and threads of its own."""
    codecs = backend.codecs if door.decoded else tuple(map(_undecoded, backend.codecs))
    stub = stubbed(replace(backend, codecs=codecs))
    facts = Facts(stub.version, stub.model, stub.engine.name, [codec.fingerprint for codec in codecs])
    return replace(stub, metrics=Metrics(facts), executor=ThreadPoolExecutor(DECODERS))


def _undecoded(codec: ServedCodec) -> ServedCodec:
    """With a matrix for a decoder, which has learned nothing."""
    spec = codec.table.spec
    linear = LinearDecoder(ProjectionConfig(spec.dim, spec.embedding_width, 1.0, decoder="linear"))
    embeddings = codec.soft_prompt.new_zeros(1, spec.embedding_width).expand(spec.vocabulary, -1)
    return replace(codec, decoder=PromptDecoder(codec.table, linear, embeddings))


async def _serve(host: str, certificate: Path, key: Path) -> None:
    plain = ServeConfig(host=host, port=0, insecure=True)
    encrypted = replace(plain, insecure=False, tls_cert=certificate, tls_key=key)
    backend = load(plain)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(running(behind(door, backend), encrypted if door.tls else plain))
            for door in DOORS
        ]
        print(f"wire ready on {','.join(f'{host}:{port}' for port in ports)}", flush=True)
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
