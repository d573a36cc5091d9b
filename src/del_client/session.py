"""AsyncClient: prompts in, answers out, over one server and one codec.

A prompt goes through three steps, each of which can be looked at before the next: spans (what is private), prepared
(the bits, drawn once), answer (the bits sent). No state outside of the object. Knows nothing of terminals.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType

from del_client.codec_cache import CodecCache
from del_client.defaults import DEFAULT_DELTA, DEFAULT_SERVER, default_setting
from del_client.pinned import load_reader
from del_client.prepared import Prepared, preview
from del_client.prompt import Message, PromptReader, Span
from del_client.query import Finish, GenerationOptions, Limits, Query, ServerInfo, TokenDelta
from del_client.report import PrivacyReport, attack_recovered, privacy_report
from del_client.transport import Transport
from del_codec.errors import MismatchError
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable


class Answer:
    """One answer: iterate it for its deltas, once; leaving the loop cancels the query. Then the figures are there."""

    def __init__(self, transport: Transport, query: Query, limits: Limits) -> None:
        self._events = transport.generate(query, limits)
        self._finish: Finish | None = None
        self._started = self._first = self._ended = 0.0

    async def __aiter__(self) -> AsyncIterator[TokenDelta]:
        self._started = time.monotonic()
        async with aclosing(self._events) as events:
            async for event in events:
                self._ended = time.monotonic()
                self._first = self._first or self._ended
                if isinstance(event, Finish):
                    self._finish = event
                else:
                    yield event

    @property
    def finish(self) -> Finish:
        """Reason, usage, timings and bytes sent. Raises RuntimeError before the answer's end."""
        if self._finish is None:
            raise RuntimeError("the answer has not ended: iterate over it first")
        return self._finish

    @property
    def ttft_ms(self) -> float:
        """Milliseconds from the first byte sent to the first token, or to the end of an empty answer."""
        return (self._first - self._started) * 1000

    @property
    def total_ms(self) -> float:
        """Milliseconds from the first byte sent to the answer's end."""
        return (self._ended - self._started) * 1000


class AsyncClient:
    """A device's connection to one server, as an async context manager.

        async with AsyncClient("127.0.0.1:50051") as client:
            answer = client.ask("What is love?")
            async for delta in answer:
                print(delta.text, end="")

    tokenizer, chat_template: files to use where the package doesn't carry the model's (checked by SHA-256).
    """

    info: ServerInfo
    table: LatentTable
    reader: PromptReader

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        tokenizer: Path | None = None,
        chat_template: Path | None = None,
        cache: CodecCache | None = None,
        connect_seconds: float = 5.0,
    ) -> None:
        self._server = server
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._cache = cache or CodecCache()
        self._connect_seconds = connect_seconds

    async def __aenter__(self) -> AsyncClient:
        self._transport = Transport(self._server, self._connect_seconds)
        try:
            await self._connect()
        except BaseException:
            await self._transport.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    async def _connect(self) -> None:
        self.info = await self._transport.server_info()
        if not self.info.codecs:
            raise MismatchError(
                f"{self._server} serves {self.info.model} without a codec: nothing can be private there"
            )
        offer = self.info.codecs[0]
        self.table = await self._cache.load(offer, self._transport.download(offer.fingerprint))
        self.reader = load_reader(self.table.spec, self._tokenizer, self._chat_template)

    def spans(self, prompt: str | Sequence[Message]) -> list[Span]:
        """The prompt's tokens, private or public. A str is one private message; reader.text takes it as it stands."""
        return self.reader.chat([Message("user", prompt)] if isinstance(prompt, str) else prompt)

    def prepare(self, spans: Sequence[Span], setting: NoiseSetting | None = None) -> Prepared:
        """Draw the bits of the private spans; without a setting, at the codec's default. Nothing is sent."""
        return preview(self.table, spans, setting or default_setting(self.table.spec))

    def privacy(self, prepared: Prepared, delta: float = DEFAULT_DELTA) -> PrivacyReport | None:
        """The certificate of what `prepared` gives away; None where nothing in it is private."""
        return privacy_report(self.table, prepared.segments, delta)

    def attack_recovered(self, prepared: Prepared) -> float:
        """The share of its private tokens that the best attack on single tokens recovers from these very bits."""
        return attack_recovered(self.table, prepared.spans, prepared.segments)

    def send(self, prepared: Prepared, options: GenerationOptions | None = None) -> Answer:
        """The server's answer to a prepared prompt; it is sent when the answer is iterated."""
        query = Query(self.table.fingerprint, prepared.segments, options or GenerationOptions())
        return Answer(self._transport, query, self.info.limits)

    def ask(
        self,
        prompt: str | Sequence[Message],
        setting: NoiseSetting | None = None,
        options: GenerationOptions | None = None,
    ) -> Answer:
        """All three steps at once."""
        return self.send(self.prepare(self.spans(prompt), setting), options)
