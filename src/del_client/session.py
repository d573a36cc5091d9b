"""Session: a device's connection to one server and one codec, which AsyncClient and Client are the two faces of.

A prompt goes through three steps: spans (what is private), a release (its bits, through the gate: checked against the
policy, entered into the ledger, drawn once), an answer (the bits sent). Knows nothing of terminals or settings' files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Unpack

from del_client.access import Access
from del_client.answer import Answer, Course, Reading
from del_client.classifying import Classification, choose_task, most_bytes, rank, within
from del_client.codec_cache import CodecCache
from del_client.conversation import Conversation
from del_client.defaults import DEFAULT_SERVER
from del_client.desk import Desk, Prompt
from del_client.embed_report import EmbedReport, protected_spans
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.loop_thread import LoopThread
from del_client.message import Message
from del_client.options import OptionArguments, Options, read_options
from del_client.pinned import load_reader
from del_client.policy import Policy
from del_client.prepared import Prepared, cut_spans
from del_client.prompt import PromptReader, Span
from del_client.protection.placeholders import Placeholders
from del_client.protection.restoring import Restorer
from del_client.query import PLAIN, CodecOffer, Event, GenerationOptions, Query, Question, ServerInfo, Shaping, Traffic
from del_client.retrying import Interrupted, Patience, SendOnce, result
from del_client.retrying import answer as unbroken
from del_client.transport import Transport
from del_codec.errors import MismatchError, UnavailableError
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

if TYPE_CHECKING:
    from del_client.tracing import Tracing

Release = Callable[[], Awaitable[Prepared]]
Watch = Callable[[Answer, LatentTable], None]


class Session:
    """What AsyncClient and Client have in common.

    policy: what may leave; None: no limits. ledger: where the spend is kept; None: the user's own, in its usual place.
    tokenizer, chat_template: files to use where the package doesn't carry the model's (checked by SHA-256). patience:
    how long a lost connection is put up with; `interrupted` is told of each attempt to mend it: the error, and the
    seconds until then. shaping: of all answers' messages, against who watches their sizes and times. access: TLS or
    not, and what shows who asks. watch: called with each answer that nothing more will come of, and the table of its
    bits (DeviceMetrics.answered, say). tracing: spans of what is asked, which the server may go on with.
    """

    _loop: LoopThread | None = None

    info: ServerInfo
    offer: CodecOffer
    table: LatentTable
    reader: PromptReader
    desk: Desk

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        policy: Policy | None = None,
        ledger: Ledger | Path | None = None,
        tokenizer: Path | None = None,
        chat_template: Path | None = None,
        cache: CodecCache | None = None,
        access: Access | None = None,
        connect_seconds: float = 5.0,
        patience: Patience | None = None,
        shaping: Shaping = PLAIN,
        interrupted: Interrupted | None = None,
        watch: Watch | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.server = server
        self.policy = policy or Policy()
        self._ledger = ledger
        self._own_ledger: Ledger | None = None
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._cache = cache or CodecCache()
        self._access = access or Access()
        self._connect_seconds = connect_seconds
        self._patience = patience or Patience()
        self._shaping = shaping
        self._interrupted = interrupted or _unheard
        self._watch = watch or _unseen
        self._tracing = tracing

    if not TYPE_CHECKING:  # or every misspelt attribute would seem to be there

        def __getattr__(self, name: str) -> NoReturn:
            if name in Session.__annotations__ or name == "_transport":
                raise RuntimeError("enter the client first: `with Client(...) as client`, or `async with AsyncClient`")
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)

    async def _open(self) -> None:
        """Connect, and have codec, tokenizer and ledger at hand. Raises UnavailableError at once if nobody answers.

        What the policy doesn't list is not met: no such server is shown who asks, no such codec is fetched.
        """
        self.policy.check_server(self.server)
        self._transport = Transport(self.server, self._connect_seconds, access=self._access)
        try:
            await self._connect()
        except BaseException:
            await self._close()
            raise

    async def _close(self) -> None:
        await self._transport.close()
        if self._own_ledger is not None:
            self._own_ledger.close()

    async def _connect(self) -> None:
        self.info = await self._transport.server_info()
        if not self.info.codecs:
            raise MismatchError(f"{self.server} serves {self.info.model} without a codec: nothing can be private there")
        known = [offer for offer in self.info.codecs if self.policy.allows_codec(offer.fingerprint)]
        self.offer = (known or self.info.codecs)[0]
        self.policy.check_codec(self.offer.fingerprint, self.server)
        self.table = await self._cache.load(self.offer, self._transport.download(self.offer.fingerprint))
        self.reader = load_reader(self.table.spec, self._tokenizer, self._chat_template)
        self.desk = Desk(self.table, self.reader, self.policy)

    async def answers(self) -> bool:
        """Whether the server answers now, for callers with an event loop; nothing of any prompt is sent."""
        try:
            await self._transport.server_info()
        except UnavailableError:
            return False
        return True

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened when it is first needed."""
        if isinstance(self._ledger, Ledger):
            return self._ledger
        self._own_ledger = Ledger(self._ledger)
        return self._own_ledger

    @cached_property
    def gate(self) -> Gate:
        """The one door for what leaves."""
        return Gate(self.policy, self.ledger, self.server)

    def generate(self, prompt: Prompt, **options: Unpack[OptionArguments]) -> Answer:
        """The answer to a question, or to the last message of a chat; see Options for the keyword arguments.

        A str is one private message. Messages are Message, or mappings with "role", "content" and, for what the server
        may read, "public". Nothing is sent before the answer is iterated; each call is a release of its own, which
        costs: use a conversation to go on, or to ask again. Raises InvalidValue for what can't be asked.
        """
        *before, last = self.desk.chat(prompt, placeholders := Placeholders())
        return Conversation(self, before, options, placeholders).ask(last, {})

    def complete(self, text: str, **options: Unpack[OptionArguments]) -> Answer:
        """What the model writes after a text, without a chat template."""
        *_, message = self.desk.chat(text, placeholders := Placeholders())
        return self.continuation(message, Conversation(self, [], options, placeholders), options)

    def conversation(self, system: str | None = None, **options: Unpack[OptionArguments]) -> Conversation:
        """A new conversation. `system` is PUBLIC: it leaves the device in the clear. options: of all its turns."""
        read_options(options)
        before = [] if system is None else [Message("system", system, public=True)]
        return Conversation(self, before, options, Placeholders())

    def answer(self, messages: Sequence[Message], talk: Conversation, options: OptionArguments) -> Answer:
        """The answer to messages whose sensitive spans are protected already, as a turn of a conversation."""
        return self._answer(self.reader.chat(messages), talk, read_options(options))

    def continuation(self, message: Message, talk: Conversation, options: OptionArguments) -> Answer:
        """What the model writes after a text whose sensitive spans are protected already."""
        return self._answer(self.reader.text(message), talk, read_options(options))

    def send(self, prepared: Prepared, **options: Unpack[OptionArguments]) -> Answer:
        """Another answer to what was released before: the very same bits, so at no new cost. Options but the noise.

        Raises PrivacyRefusal for a preview.
        """
        prepared.check_released()
        asked = read_options(options)

        async def again() -> Prepared:
            return prepared

        return Answer(self._course(again, asked), Reading(stop=asked.stop, seconds=asked.timeout))

    async def _classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | None,
        task: str,
        template: str | None,
        options: OptionArguments,
    ) -> Classification:
        asked, fields = read_options(options), [text] if isinstance(text, str) else list(text)
        chosen, name = choose_task(self.offer, task, len(fields), template, labels)
        spans = self.reader.task(chosen, self.desk.chat([Message("user", field) for field in fields]))
        candidates = tuple(self.reader.ids(chosen.continuation(label)) for label in chosen.labels)
        setting = asked.setting(self.table.spec)
        pieces = cut_spans(spans)
        size = most_bytes(pieces, setting, self.table.spec.dim, candidates)
        tokens = sum(len(piece.token_ids) for piece in pieces)
        self.info.limits.check_candidates(tokens, len(pieces), candidates, size)  # before anything is spent
        started = time.monotonic()
        async with within(asked.timeout):
            if asked.clear:
                prepared = await asyncio.to_thread(self.gate.public, spans)
            else:
                prepared = await asyncio.to_thread(self.gate.release, self.table, spans, setting)
            # A wholly public prompt meets the plain model, whatever the task.
            served = name if prepared.fingerprint else ""
            question = Question(prepared.fingerprint, prepared.segments, candidates, served)
            send = partial(self._transport.score, question)
            if self._tracing is not None:
                send = partial(self._tracing.scoring, send)
            scores = await result(send, self._patience, self._interrupted)
        elapsed = 1000 * (time.monotonic() - started)
        return Classification(rank(chosen, scores), scores, prepared, self.desk.privacy(prepared), elapsed)

    def embed_report(self, prompt: Prompt, **options: Unpack[OptionArguments]) -> EmbedReport:
        """What a prompt would give away and cost. Nothing is sent and nothing is spent."""
        asked = read_options(options)
        prepared = self.preview(prompt, **options)
        return EmbedReport(
            prompt_tokens=prepared.prompt_tokens,
            private_tokens=prepared.private_tokens,
            payload_bytes=prepared.payload_bytes,
            wire_bytes=self.wire_bytes(prepared, asked),
            privacy=self.desk.privacy(prepared),
            protected=protected_spans(prepared.spans),
        )

    def wire_bytes(self, prepared: Prepared, options: Options) -> int:
        """Bytes of the messages that a query takes, with gRPC's prefix. Nothing is sent."""
        query = Query(prepared.fingerprint, prepared.segments, options.generation(), shaping=self._shaping)
        return self._transport.wire_bytes(query, self.info.limits)

    def preview(self, prompt: Prompt, **options: Unpack[OptionArguments]) -> Prepared:
        """The prompt with bits of its own, to be looked at and never sent."""
        asked = read_options(options)
        return self.desk.preview(self.reader.chat(self.desk.chat(prompt)), asked)

    def _answer(self, spans: Sequence[Span], talk: Conversation, options: Options) -> Answer:
        release = partial(self._release, spans, options.setting(self.table.spec), talk, options)
        restoring = [Restorer(talk.placeholders)] if talk.placeholders.labels else []
        reading = Reading(restoring=restoring, stop=options.stop, seconds=options.timeout)
        return Answer(self._course(release, options, talk.ended), reading)

    def _course(self, release: Release, options: Options, ended: Callable[[Answer], None] | None = None) -> Course:
        send = partial(self._send, options.generation())

        def over(answer: Answer) -> None:
            if ended is not None:
                ended(answer)
            self._watch(answer, self.table)

        return Course(release=release, send=send, report=self.desk.privacy, ended=over, loop=self._loop)

    async def _release(
        self, spans: Sequence[Span], setting: NoiseSetting, talk: Conversation, options: Options
    ) -> Prepared:
        pieces = cut_spans(spans)
        tokens = sum(len(piece.token_ids) for piece in pieces)
        self.info.limits.check(tokens, len(pieces), options.generation())  # before anything is spent
        if options.clear:
            return await asyncio.to_thread(self.gate.public, spans)
        return await asyncio.to_thread(self.gate.release, self.table, spans, setting, talk.name, talk.homes)

    def _send(self, generation: GenerationOptions, prepared: Prepared, traffic: Traffic) -> AsyncGenerator[Event]:
        query = Query(prepared.fingerprint, prepared.segments, generation, shaping=self._shaping)
        send = partial(self._transport.generate, limits=self.info.limits, traffic=traffic)
        send_once: SendOnce = send if self._tracing is None else self._tracing.generating(send)
        return unbroken(send_once, query, self._patience, self._interrupted)


def _unheard(error: UnavailableError, wait: float) -> None:
    """Nobody asked to be told."""


def _unseen(answer: Answer, table: LatentTable) -> None:
    """Nobody asked to be shown."""
