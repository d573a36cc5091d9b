"""Conversation: turns of a chat with one server, which keeps nothing of them: each turn sends all earlier ones again.

What was private stays the bits that were drawn for it, and the server's answers go back as the very ids that it sent,
placeholders unrestored; so a later turn gives away no more than its own new words. Knows nothing of the wire.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack

from del_client.answer import Answer
from del_client.message import Message
from del_client.options import OptionArguments
from del_client.protection.placeholders import Placeholders
from del_codec.errors import InvalidValue

if TYPE_CHECKING:
    from del_client.session import Session


class Conversation:
    """Made by a client's `conversation`. One answer at a time.

    options: those of every turn that doesn't name others; they may be changed between turns. Earlier messages keep the
    bits that they were sent with, whatever the noise is now. name: under which the ledger knows them; None: a new one.
    homes: as the gate's, of an opening that was drawn in another conversation.
    """

    def __init__(
        self,
        client: Session,
        messages: Sequence[Message],
        options: OptionArguments,
        placeholders: Placeholders,
        name: str | None = None,
        homes: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.options = options
        self.homes = homes
        self.name = secrets.token_hex(16) if name is None else name
        self.placeholders = placeholders
        self._client = client
        self._messages = list(messages)
        self._asked: Message | None = None
        self._running: Answer | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far, with what was written by the user and what the server sent in answer."""
        return tuple(self._messages)

    def generate(self, text: str, **options: Unpack[OptionArguments]) -> Answer:
        """The answer to the next message of the user. It becomes part of the conversation when it is read.

        An answer that is left before its end stays in it as far as it came; one that fails does not, and `retry`, or
        the same text again, sends the same bits. Raises InvalidValue while another answer is being read.
        """
        self._check_idle()
        (message,) = self._client.desk.chat(text, self.placeholders)
        return self.ask(message, options)

    def retry(self, **options: Unpack[OptionArguments]) -> Answer:
        """Another answer to the user's last message, in place of the one that there is: the same bits, at no new cost.

        A greedy answer would be the same one again: give a temperature. Raises InvalidValue where nothing was asked.
        """
        self._check_idle()
        if self._asked is None:
            raise InvalidValue("retry", "nothing", "ask something first")
        if any(message is self._asked for message in self._messages):
            self._messages = list(itertools.takewhile(lambda message: message is not self._asked, self._messages))
        return self.ask(self._asked, options)

    def ask(self, message: Message, options: OptionArguments) -> Answer:
        """The answer to a message whose sensitive spans are protected already."""
        turns = [*self._messages, message]
        merged: OptionArguments = {**self.options, **options}
        self._running = self._client.answer(turns, self, merged)
        self._asked = message
        return self._running

    def ended(self, answer: Answer) -> None:
        """Take up an answer that nothing more will come of; its client calls this."""
        if answer is not self._running or self._asked is None:
            return
        self._running = None
        self.placeholders.answered(answer.unrestored)
        if answer.ended or (answer.token_ids and not answer.failed):
            ids = answer.spoken_ids if answer.unrestored else ()
            said = Message("assistant", answer.unrestored, public=True, token_ids=ids)
            self._messages += [self._asked, said]

    def _check_idle(self) -> None:
        if self._running is not None and self._running.started:
            raise InvalidValue("conversation", "busy", "read its answer to the end, or leave the loop, before going on")
