"""A server of canned answers for the shipped codec: no model, so that what a device and the wire cost stands alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

WORD = " hello"
TOKEN_SECONDS = 0.02


class CannedServer(rpc.InferenceServiceServicer):
    """`async with CannedServer() as server`: answers every query with max_new_tokens words, one each TOKEN_SECONDS.

    queried: time.monotonic() of each query's arrival.
    """

    def __init__(self) -> None:
        self.table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
        self.address = ""
        self.queried: list[float] = []

    async def __aenter__(self) -> CannedServer:
        self._server = grpc.aio.server()
        rpc.add_InferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)

    async def GetServerInfo(  # noqa: N802
        self,
        request: pb.GetServerInfoRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.GetServerInfoResponse:
        """The shipped codec alone."""
        size = (codec_folders()[0] / DEVICE_FILE).stat().st_size
        codec = pb.CodecInfo(fingerprint=bytes.fromhex(self.table.fingerprint), size=size)
        return pb.GetServerInfoResponse(server_version="0", model="canned", codecs=[codec])

    async def Generate(  # noqa: N802
        self,
        requests: AsyncIterator[pb.GenerateRequest],
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.GenerateResponse]:
        """One query after the other."""
        tokens = 0
        async for request in requests:
            if request.HasField("open"):
                self.queried.append(time.monotonic())
                tokens = request.open.options.max_new_tokens or 1
            if request.HasField("end") or request.open.end:
                for _ in range(tokens):
                    await asyncio.sleep(TOKEN_SECONDS)
                    delta = pb.TokenDelta(token_ids=[33662], text=WORD)
                    yield pb.GenerateResponse(query_id=request.query_id, delta=delta)
                finish = pb.FinishedQuery(
                    reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(new_tokens=tokens), timings=pb.Timings()
                )
                yield pb.GenerateResponse(query_id=request.query_id, finish=finish)
