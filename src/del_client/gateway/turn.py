"""Turn: one answer to be given, and what is remembered of its chat before and after it.

What an app sends as any role's text is private, unless the server sent it (then the very ids go back) or its hash is
allow-listed. The bits, their cost and whether they may leave are the client's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from del_client.answer import Answer
from del_client.client import AsyncClient
from del_client.conversation import Conversation
from del_client.gateway.asked import Asked, ChatAsked, Said, TextAsked
from del_client.gateway.history import Chat, History
from del_client.gateway.settings import GatewaySettings
from del_client.message import Message
from del_client.terminal import safe

_OPENING = re.compile(r"(\\*)\{\{")


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a request. ended: to be called once, when nothing more will come of it."""

    answer: Answer
    ended: Callable[[], None]


def turns_of(client: AsyncClient, history: History, settings: GatewaySettings, asked: Asked) -> list[Turn]:
    """All answers that a request asks for, in the order of their index; nothing is sent yet.

    Raises InvalidValue and PrivacyRefusal for what can't be asked.
    """
    desk = _Desk(client, history, settings, asked)
    if isinstance(asked, ChatAsked):
        return desk.chat(asked)
    if isinstance(asked, TextAsked):
        return [turn for number, prompt in enumerate(asked.prompts) for turn in desk.text(number, prompt)]
    raise TypeError(f"neither a chat nor a text: {type(asked).__name__}")


def is_known(history: History, asked: ChatAsked) -> bool:
    """Whether a chat is remembered word for word, so that all of it may be sent again at no new cost."""
    return len(history.recall(_label(asked), asked.messages).messages) == len(asked.messages)


def _label(asked: ChatAsked) -> str:
    return f"chat\0{asked.marks}\0{asked.label}"


class _Desk:
    """Makes the turns of one request."""

    def __init__(self, client: AsyncClient, history: History, settings: GatewaySettings, asked: Asked) -> None:
        self._client = client
        self._history = history
        self._settings = settings
        self._asked = asked

    def chat(self, asked: ChatAsked) -> list[Turn]:
        """The answers to a chat."""
        said = asked.messages
        label = _label(asked)
        chat = self._known(label, said)
        return [self._answered(choice, label, said, chat) for choice in range(self._asked.choices)]

    def text(self, number: int, prompt: str) -> list[Turn]:
        """The continuations of a text. number: texts of one request are releases of their own, equal ones as well."""
        chat = self._known(f"text {number}\0{self._asked.marks}\0{self._asked.label}", [Said("user", prompt)])
        turns = []
        for choice in range(self._asked.choices):
            talk = Conversation(self._client, [], {}, chat.placeholders, chat.name)
            options = self._asked.options_of(choice, self._settings)
            answer = self._client.continuation(chat.messages[0], talk, options)
            turns.append(Turn(answer, lambda: None))
        return turns

    def _known(self, label: str, said: Sequence[Said]) -> Chat:
        """What is known of a chat, with the rest of it protected; known from now on, answered or not."""
        chat = self._history.recall(label, said)
        new = said[len(chat.messages) :]
        chat = chat.after(*(self._protected(one, chat) for one in new))
        self._history.keep(label, said, chat)
        return chat

    def _protected(self, said: Said, chat: Chat) -> Message:
        """A message that is new in its chat, as it may leave."""
        answer = self._history.answer(said) if said.role == "assistant" else None
        if answer is not None:
            self._client.desk.chat([replace(answer, token_ids=())], chat.placeholders)  # its numbers are no secret's
            return answer
        if self._settings.is_public(said.text):
            message = Message(said.role, said.text, public=True)
        elif said.role == "user" and self._asked.marks:
            message = Message(said.role, said.text)
        else:
            message = Message(said.role, _OPENING.sub(_plain, said.text))
        (protected,) = self._client.desk.chat([message], chat.placeholders)
        return protected

    def _answered(self, choice: int, label: str, said: Sequence[Said], chat: Chat) -> Turn:
        talk = Conversation(self._client, chat.messages[:-1], {}, chat.placeholders, chat.name)
        answer = talk.ask(chat.messages[-1], self._asked.options_of(choice, self._settings))

        def ended() -> None:
            shown = safe(answer.text)
            for message in talk.messages[len(chat.messages) :]:
                if message.token_ids and shown.strip():
                    self._history.keep(label, [*said, Said(message.role, shown)], chat.after(message))
                    if message.content == answer.text:  # nothing of this chat's secrets was put back
                        self._history.keep_answer(shown, message)

        return Turn(answer, ended)


def _plain(opening: re.Match[str]) -> str:
    """What is read as these very characters, where {{ would open a mark."""
    return opening[1] * 2 + "\\{{"
