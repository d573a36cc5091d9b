"""A tiny codec made without torch, and a server that records what a client sends and answers as a test says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from del_client import Patience
from del_client.codec_cache import CodecCache
from del_client.loop_thread import LoopThread
from del_codec.spec import CodecSpec, Measured
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_codec.v1 import inference_pb2_grpc as rpc

SPECIAL = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DIM, WIDTH = 12, 32


def byte_tokenizer() -> Tokenizer:
    """One token a byte, after the special ones."""
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


@dataclass(frozen=True)
class TinyCodec:
    """A codec's device half with the files that it is pinned to."""

    data: bytes
    tokenizer: Path
    chat_template: Path

    @property
    def table(self) -> LatentTable:
        return LatentTable.from_bytes(self.data)

    @property
    def fingerprint(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    @property
    def files(self) -> list[str]:
        """The options that name the files."""
        return ["--tokenizer", str(self.tokenizer), "--chat-template", str(self.chat_template)]


def spec_of(tokenizer: bytes, template: bytes) -> CodecSpec:
    return CodecSpec(
        model="tiny",
        model_sha256="0" * 64,
        dim=DIM,
        vocabulary=300,
        embedding_width=WIDTH,
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        chat_template_sha256=hashlib.sha256(template).hexdigest(),
        mu_milli_min=1_000,
        mu_milli_max=40_000,
        measured=(Measured(5_000, 1, 100, 100), Measured(8_000, 1, 250, 400), Measured(9_000, 1, 251, 700)),
    )


def make_codec(folder: Path, counts: np.ndarray | None = None, **changes: object) -> TinyCodec:
    """Write the files into a folder; `changes` replace fields of the spec. counts: of each token; rising if None."""
    folder.mkdir(parents=True, exist_ok=True)
    codec = TinyCodec(b"", folder / "tokenizer.json", folder / "chat_template.jinja")
    codec.tokenizer.write_text(byte_tokenizer().to_str())
    codec.chat_template.write_text(TEMPLATE)
    spec = spec_of(codec.tokenizer.read_bytes(), TEMPLATE.encode())
    spec = replace(spec, **changes)  # type: ignore[arg-type]
    latents = np.random.default_rng(0).integers(-127, 128, (spec.vocabulary, spec.dim)).astype(np.int8)
    counts = np.arange(1, spec.vocabulary + 1, dtype=np.uint32) if counts is None else counts
    data = LatentTable.to_bytes(spec, latents, counts)
    (folder / "device.safetensors").write_bytes(data)
    return replace(codec, data=data)


def client_arguments(codec: TinyCodec, folder: Path) -> dict[str, Any]:
    """Of a client whose files all lie in a folder, and which is quickly out of patience."""
    return {
        "tokenizer": codec.tokenizer,
        "chat_template": codec.chat_template,
        "cache": CodecCache(folder),
        "ledger": folder / "ledger.sqlite3",
        "patience": Patience(5, 0.01, 0.1),
    }


Reply = Callable[[int, list[pb.GenerateRequest]], AsyncIterator[pb.GenerateResponse]]


def ends(request: pb.GenerateRequest) -> bool:
    """Whether a prompt is complete with this request."""
    return request.HasField("end") or request.open.end


def segments_of(requests: list[pb.GenerateRequest]) -> list[pb.Segment]:
    """All segments of a query, in whichever messages they came."""
    return [piece for request in requests for piece in [*request.open.segments, *request.segments.segments]]


async def hello(query_id: int, requests: list[pb.GenerateRequest]) -> AsyncIterator[pb.GenerateResponse]:
    """Two deltas and a finish that counts what came."""
    yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[7], text="hel"))
    yield pb.GenerateResponse(query_id=query_id, delta=pb.TokenDelta(token_ids=[8], text="lo"))
    yield finish(query_id, requests)


def finish(query_id: int, requests: list[pb.GenerateRequest]) -> pb.GenerateResponse:
    received = sum(request.ByteSize() + 5 for request in requests)
    usage = pb.Usage(new_tokens=2, received_bytes=received)
    return pb.GenerateResponse(
        query_id=query_id, finish=pb.FinishedQuery(reason=pb.FINISH_REASON_STOP, usage=usage, timings=pb.Timings())
    )


@dataclass
class FakeServer(rpc.InferenceServiceServicer):
    """Answers every ended query with `reply`; keeps every request, by stream and query."""

    codec: TinyCodec | None
    reply: Reply = hello
    limits: pb.Limits = field(default_factory=pb.Limits)
    download: bytes | None = None
    announced_size: int | None = None
    refuse_early: bool = False
    downloads: int = 0
    streams: list[dict[int, list[pb.GenerateRequest]]] = field(default_factory=list)
    reading: asyncio.Event | None = None  # where given, requests are read only once it is set
    before_info: Callable[[grpc.aio.ServicerContext], Awaitable[None]] | None = None
    tasks: list[pb.TaskInfo] = field(default_factory=list)
    questions: list[pb.ScoreRequest] = field(default_factory=list)
    before_score: Callable[[grpc.aio.ServicerContext], Awaitable[None]] | None = None
    logprobs: list[float] = field(default_factory=lambda: [-1.0, -2.0])

    def requests(self, query_id: int = 1) -> list[pb.GenerateRequest]:
        """What came for a query of the last stream."""
        return self.streams[-1][query_id]

    async def GetServerInfo(self, request, context):
        if self.before_info:
            await self.before_info(context)
        codecs = []
        if self.codec:
            size = len(self.codec.data) if self.announced_size is None else self.announced_size
            codecs = [pb.CodecInfo(fingerprint=self.codec.fingerprint, size=size, task_infos=self.tasks)]
        return pb.GetServerInfoResponse(server_version="0", model="tiny", codecs=codecs, limits=self.limits)

    async def DownloadCodec(self, request, context):
        assert self.codec is not None
        self.downloads += 1
        data = self.codec.data if self.download is None else self.download
        for start in range(0, len(data), 1000):
            yield pb.DownloadCodecResponse(chunk=data[start : start + 1000])

    async def Score(self, request, context):
        self.questions.append(request)
        if self.before_score:
            await self.before_score(context)
        pairs = zip(request.candidates, self.logprobs, strict=False)
        scores = [pb.CandidateScore(logprob=value, tokens=len(one.token_ids)) for one, value in pairs]
        return pb.ScoreResponse(scores=scores, usage=pb.Usage(received_bytes=request.ByteSize() + 5))

    async def Generate(self, request_iterator, context):
        queries: dict[int, list[pb.GenerateRequest]] = {}
        self.streams.append(queries)
        out: asyncio.Queue[pb.GenerateResponse | None] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()

        async def answer(query_id: int) -> None:
            async for response in self.reply(query_id, queries[query_id]):
                await out.put(response)

        async def read() -> None:
            if self.reading:
                await self.reading.wait()
            async for request in request_iterator:
                queries.setdefault(request.query_id, []).append(request)
                if ends(request) or (self.refuse_early and request.HasField("open")):
                    tasks.add(asyncio.create_task(answer(request.query_id)))
            await out.put(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await out.get()) is not None:
                yield response
        finally:
            for task in [reader, *tasks]:
                task.cancel()


class Serving:
    """`async with Serving(FakeServer(codec)) as address`."""

    def __init__(self, servicer: FakeServer, port: int = 0) -> None:
        self._servicer = servicer
        self._port = port

    async def __aenter__(self) -> str:
        self._server = grpc.aio.server()
        rpc.add_InferenceServiceServicer_to_server(self._servicer, self._server)
        port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop(None)


class ServingThread:
    """`with ServingThread(FakeServer(codec)) as address`, for tests without an event loop."""

    def __init__(self, servicer: FakeServer) -> None:
        self._serving = Serving(servicer)
        self._loop = LoopThread()

    def __enter__(self) -> str:
        return self._loop.run(self._serving.__aenter__)

    def __exit__(self, *exception: object) -> None:
        self._loop.run(self._serving.__aexit__)
        self._loop.close()
