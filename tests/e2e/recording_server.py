"""`del-server` that writes every request of its streams to a file, each after its length, and answers as a test says.

`python recording_server.py FILE TOKENIZER ANSWER serve ...`
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from del_codec.v1 import inference_pb2 as pb
from del_server import cli
from del_server.engine import batch
from del_server.engine.sampling import Draw, Taken
from del_server.service.stream import Stream

END = "<|im_end|>"
ANSWER = "Good [SECRET_1]: [SECRET_1]."


@dataclass(frozen=True, slots=True)
class Recorder:
    """Such a server, which answers with ANSWER: its address, and the file to which it writes what it is asked."""

    address: str
    file: Path


def read_requests(file: Path) -> list[pb.GenerateRequest]:
    """What was recorded, in order."""
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(pb.GenerateRequest.FromString(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def main(file: Path, tokenizer: Tokenizer, answer: str, arguments: list[str]) -> int:
    """Run the server's command line."""
    ids, read = tokenizer.encode(answer + END).ids, Stream.read

    def take(logits: Tensor, draws: Sequence[Draw]) -> list[Taken]:
        return [(ids[draw.position], None) for draw in draws]

    async def recorded(requests: AsyncIterator[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateRequest]:
        async for request in requests:
            data = request.SerializeToString()
            with file.open("ab") as out:
                out.write(len(data).to_bytes(4, "big") + data)
            yield request

    async def read_and_record(self: Any, requests: AsyncIterator[pb.GenerateRequest]) -> None:
        await read(self, recorded(requests))

    batch.take = take
    Stream.read = read_and_record  # type: ignore[method-assign]
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Tokenizer.from_file(sys.argv[2]), sys.argv[3], sys.argv[4:]))
