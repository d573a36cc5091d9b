"""Talk: what may be typed in `del-client chat`: questions, and commands that begin with a slash.

Reads no terminal itself: it is handed lines and a stream to write to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TextIO

from del_client.answer import Answer
from del_client.client import Client
from del_client.colours import Paint
from del_client.config import SETTINGS
from del_client.exposure import lines, rows
from del_client.options import OptionArguments, Options
from del_client.terminal import one_line, safe
from del_codec.errors import DelError, InvalidValue
from del_codec.frame import PrivateSegment, Segment

_SETTABLE = {
    "mu": "mu",
    "bits": "bits",
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "timeout": "timeout",
}
_READ = {setting.name: setting for setting in SETTINGS}


class Talk:
    """One chat: answers are written as they come, and what each turn gave away below it.

    budget: writes the ledger's account. system: the public system prompt of every conversation begun here.
    """

    def __init__(
        self, client: Client, system: str | None, options: OptionArguments, out: TextIO, budget: Callable[[], str]
    ) -> None:
        self._client = client
        self._system = system
        self._out = out
        self._paint = Paint.of(out)
        self._budget = budget
        self._options = options
        self._last: Answer | None = None
        self._sent: set[tuple[int, Segment]] = set()
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/set": (self._set, "/set mu 5: noise or sampling from now on; /set alone shows it"),
            "/inspect": (self._inspect, "/inspect: what an attacker reads of your last turn; /inspect TEXT: of a text"),
            "/budget": (self._account, "/budget: what this device has given away, by its ledger"),
            "/retry": (self._retry, "/retry: another answer to your last message; the same bits, at no new cost"),
            "/new": (self._new, "/new: forget this conversation and begin another"),
            "/help": (self._help, "/help: this list"),
            "/quit": (self._quit, "/quit, or Ctrl-D: end"),
        }
        self._new("")

    @property
    def commands(self) -> Iterable[str]:
        """What begins with a slash, for completion."""
        return self._commands

    def take(self, text: str) -> None:
        """Answer a question or obey a command. Raises EOFError to end; errors of ours are told, not raised."""
        word, _, rest = text.strip().partition(" ")
        try:
            if word in self._commands:
                self._commands[word][0](rest.strip())
            elif word.startswith("/") and word[1:].isalpha():
                raise InvalidValue("command", word, f"use one of {', '.join(self._commands)}")
            elif text.strip():
                self._answer(self._conversation.generate(text))
        except DelError as error:
            self._write(self._paint.bad(one_line(str(error))) + "\n")

    def _answer(self, answer: Answer) -> None:
        self._last = answer
        started = time.monotonic()
        try:
            for delta in answer:
                self._write(safe(delta.text))
        except KeyboardInterrupt:
            self._write(self._paint.dim(" [stopped]"))
        except DelError:
            self._write("\n")
            raise
        self._write("\n" + self._paint.dim(self._status(answer, time.monotonic() - started)) + "\n\n")

    def _status(self, answer: Answer, seconds: float) -> str:
        """What a turn took and gave away: its new bits alone, and all of the conversation's."""
        if not answer.started_sending:
            return "nothing was sent"
        prepared = answer.prepared
        parts = [
            f"{len(answer.token_ids)} tokens in {seconds:.1f} s",
            f"{answer.wire_bytes} bytes sent, {prepared.payload_bytes} of them bits",
        ]
        private = {place for place in enumerate(prepared.segments) if isinstance(place[1], PrivateSegment)}
        fresh = private - self._sent
        self._sent |= private
        certificate = self._client.desk.certificate
        turn, whole = (certificate(segment for _, segment in places) for places in (fresh, self._sent))
        if whole is None:
            return ", ".join([*parts, "nothing of it private"])
        spent = f"epsilon {turn.epsilon_prompt:.4g}" if turn else "no new epsilon"
        # The composition of settings that were changed in the light of answers is a filter's to bound, not this one's.
        changed = len({place[1].setting for place in self._sent if isinstance(place[1], PrivateSegment)}) > 1
        condition = " if no setting was chosen after an answer" if changed else ""
        together = f"(conversation {whole.epsilon_prompt:.4g}{condition})"
        return ", ".join([*parts, f"{spent} {together}, mu {whole.mu:.4g}"])

    def _set(self, rest: str) -> None:
        words = rest.split()
        if not words:
            shown = Options(**self._options)
            for name, option in _SETTABLE.items():
                self._write(f"{name:12} {_READ[name].shown(getattr(shown, option))}\n")
            return
        if len(words) != 2 or words[0] not in _SETTABLE:
            raise InvalidValue("/set", rest, f"write a name and a value; names are {', '.join(_SETTABLE)}")
        name, text = words
        try:
            value = _READ[name].read(text)
        except ValueError:
            raise InvalidValue(name, text, f"use {_READ[name].metavar}: {_READ[name].meaning}") from None
        changed: OptionArguments = {**self._options, _SETTABLE[name]: value}  # type: ignore[misc]
        Options(**changed).setting(self._client.table.spec)  # refused here, not at the next question
        self._options = self._conversation.options = changed
        self._write(
            self._paint.dim(f"{name} is {value} from now on; earlier messages keep the bits they were sent with\n")
        )

    def _inspect(self, text: str) -> None:
        if text:
            prepared = self._client.preview(text, **self._options)
            note = "a preview: what is sent is drawn anew"
        elif self._last is None or not self._last.started_sending:
            raise InvalidValue("/inspect", "nothing", "ask something first, or write a text after it")
        else:
            prepared, note = self._last.prepared, "the bits that were sent"
        found = rows(self._client.table, self._client.reader.tokenizer, prepared)
        for line in lines(found, self._paint):
            self._write(line + "\n")
        right = sum(row.right is True for row in found)
        private = sum(row.right is not None for row in found)
        self._write(self._paint.dim(f"{right} of {private} private tokens guessed right ({note})\n"))

    def _account(self, rest: str) -> None:  # noqa: ARG002
        self._write(self._budget())

    def _retry(self, rest: str) -> None:  # noqa: ARG002
        answer = self._conversation.retry()
        if not self._options.get("temperature"):
            self._write(self._paint.dim("temperature is 0, so the same answer comes again; /set temperature 0.8\n"))
        self._answer(answer)

    def _new(self, rest: str) -> None:  # noqa: ARG002
        self._conversation = self._client.conversation(self._system, **self._options)
        self._sent.clear()
        self._last = None

    def _help(self, rest: str) -> None:  # noqa: ARG002
        for _, text in self._commands.values():
            self._write(text + "\n")
        self._write('A line that ends in \\ goes on; """ begins and ends a text of several lines.\n')
        self._write("{{Ada}} or {{name:Ada}} keeps what it encloses on this device. Ctrl-C stops an answer.\n")

    def _quit(self, rest: str) -> None:  # noqa: ARG002
        raise EOFError

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
