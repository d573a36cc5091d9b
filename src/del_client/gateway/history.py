"""History: recognises a chat that an app sends again, whole, with each of its turns.

An app names no conversation. So what identifies one is what was said: a keyed hash of the messages up to each place. A
list of messages whose beginning is known goes on as that conversation did: private messages as the very bits that were
drawn for them, answers as the ids that the server sent. Kept in memory alone, and bounded: the list that was longest
not met goes first. Knows nothing of HTTP, tokens or ledgers.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from del_client.gateway.asked import Said
from del_client.gateway.recent import Recent
from del_client.message import Message
from del_client.protection.placeholders import Placeholders

_DIGEST_BYTES = 32
# Of one message's own memory, beside its text: objects, hashes and the numbers of its ids.
_MESSAGE_CHARS, _ID_CHARS = 512, 36


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat as far as it is known.

    name: what the ledger knows it under. messages: as they leave, protected. homes: the chat that each of them was
    drawn in, by its name: this one, or that whose opening it shares.
    """

    name: str = field(default_factory=lambda: secrets.token_hex(16))
    placeholders: Placeholders = field(default_factory=Placeholders)
    messages: tuple[Message, ...] = ()
    homes: tuple[str, ...] = ()

    def after(self, *messages: Message) -> Chat:
        """The same chat, further on."""
        homes = (*self.homes, *(self.name for _ in messages))
        return Chat(self.name, self.placeholders, (*self.messages, *messages), homes)

    def up_to(self, count: int) -> Chat:
        """The same chat, as far as its first messages."""
        return Chat(self.name, self.placeholders, self.messages[:count], self.homes[:count])

    def beside(self) -> Chat:
        """Another chat with the same opening: the same bits, and no more in common."""
        return Chat(messages=self.messages, homes=self.homes)

    @property
    def answered(self) -> bool:
        """Whether the server has said anything in it."""
        return any(message.token_ids for message in self.messages)

    @property
    def protected(self) -> bool:
        """Whether anything in it is a secret, which has its number in this chat alone."""
        return any(message.protected for message in self.messages)


class History:
    """What was said, of at most `most` lists of messages and as many answers, and `chars` characters of each."""

    def __init__(self, most: int, chars: int) -> None:
        self._key = secrets.token_bytes(_DIGEST_BYTES)
        self._chats: Recent[Chat] = Recent(most, chars)
        self._answers: Recent[Message] = Recent(most, chars)

    def recall(self, label: str, said: Sequence[Said]) -> Chat:
        """The chat that these messages go on with: an empty new one where nothing is known of them.

        All of them, or a beginning with an answer of the server's in it. An opening without one (a system prompt, say)
        makes no conversation of two chats, or what limits one would count for both; but its bits are the same, or the
        same words would be drawn anew in every chat. label: chats under two labels share nothing.
        """
        places = list(enumerate(self._places(label, said), start=1))
        for count, place in reversed(places):
            chat = self._chats.get(place)
            if chat is None:
                continue
            if count == len(said) or chat.answered:
                return chat
            if not chat.protected:
                return chat.beside()
        return Chat()

    def keep(self, label: str, said: Sequence[Said], chat: Chat) -> None:
        """Know these messages as this chat from now on."""
        *_, place = self._places(label, said)
        self._chats.put(place, chat, _weight(chat.messages))

    def keep_answer(self, shown: str, answer: Message) -> None:
        """Know an answer wherever its text stands, as `shown`: only for one that shows no secret of its chat."""
        self._answers.put(self._place(b"", Said(answer.role, shown)), answer, _weight([answer]))

    def answer(self, said: Said) -> Message | None:
        """The answer of the server's that this is, whatever stood before it; None if it is none that is remembered."""
        return self._answers.get(self._place(b"", said))

    def _places(self, label: str, said: Sequence[Said]) -> Iterator[bytes]:
        """The hash of the messages up to each one, itself included."""
        place = hashlib.blake2b(label.encode(), key=self._key, digest_size=_DIGEST_BYTES).digest()
        for one in said:
            place = self._place(place, one)
            yield place

    def _place(self, before: bytes, said: Said) -> bytes:
        # An app may cut the blanks around an answer off; what it wrote itself stands as it is.
        text = said.text.strip() if said.role == "assistant" else said.text
        digest = hashlib.blake2b(before, key=self._key, digest_size=_DIGEST_BYTES)
        digest.update(said.role.encode() + b"\0" + text.encode())
        return digest.digest()


def _weight(messages: Sequence[Message]) -> int:
    """Characters' worth of memory that messages hold on to; what lists share is counted with each of them."""
    return sum(len(one.content) + _MESSAGE_CHARS + _ID_CHARS * len(one.token_ids) for one in messages)
