"""Frames over a socket pair: a JSON object and raw bytes behind it, both of bounded size. Knows nothing of engines.

    u32 bytes of JSON, u64 bytes of payload, in the machine's order; the JSON; the payload

Tokens of a step go as a payload of int64 pairs, embeddings as their bytes: no figure of a hot path is written in words.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from del_codec.errors import EngineError

_HEAD = struct.Struct("=IQ")
# Room for the ids of a resumed answer of a million tokens.
MESSAGE_BYTES = 1 << 24
EVENT_BYTES = 1 << 26

Message = dict[str, Any]


class Frames:
    """One end. most: bytes of the largest payload that is taken; may be raised once more is known."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        self._reader, self._writer = reader, writer
        self.most = most

    @classmethod
    async def over(cls, end: socket.socket, most: int = EVENT_BYTES) -> Frames:
        """Of a connected socket, in the running loop."""
        return cls(*await asyncio.open_unix_connection(sock=end), most)

    def send(self, message: Mapping[str, object], payload: bytes = b"") -> None:
        """Soon, in order; into the void once the other side is gone."""
        if self._writer.is_closing():
            return
        text = json.dumps(message, separators=(",", ":")).encode()
        self._writer.write(_HEAD.pack(len(text), len(payload)) + text)
        if payload:
            self._writer.write(payload)

    async def receive(self) -> tuple[Message, bytes] | None:
        """The next one; None once the other side is gone. Raises EngineError for what is no frame, or too large."""
        try:
            size, behind = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if size > MESSAGE_BYTES or behind > self.most:
                raise EngineError(f"a frame of {size} and {behind} bytes: at most {MESSAGE_BYTES} and {self.most}")
            message = json.loads(await self._reader.readexactly(size))
            if not isinstance(message, dict):
                raise EngineError("a frame without a JSON object")
            return message, await self._reader.readexactly(behind) if behind else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except (ValueError, RecursionError):
            raise EngineError("a frame that is no JSON") from None

    async def flush(self) -> None:
        """Wait until little is unsent."""
        await self._writer.drain()

    def close(self) -> None:
        """Say no more."""
        self._writer.close()


def bytes_of(embeddings: Tensor) -> bytes:
    """Of a tensor [T, D], wherever it is."""
    return embeddings.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


def embeddings_of(payload: bytes, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The tensor [T, D] again. Raises EngineError for bytes that are no rows of such a width."""
    row = width * dtype.itemsize
    if not payload or len(payload) % row:
        raise EngineError(f"{len(payload)} bytes are no embeddings of {row} bytes each")
    return torch.frombuffer(bytearray(payload), dtype=dtype).reshape(-1, width).to(device)
