"""Turn: one answer to be given, and what is remembered of its chat before and after it.

What an app sends as any role's text is private, unless the server sent it (then the very ids go back) or its hash is
allow-listed. The bits, their cost and whether they may leave are the client's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from del_client.answer import Answer
from del_client.client import AsyncClient
from del_client.conversation import Conversation
from del_client.gateway.asked import Asked, ChatAsked, Said, TextAsked
from del_client.gateway.errors import TOO_LONG
from del_client.gateway.history import Chat, History
from del_client.gateway.settings import GatewaySettings
from del_client.message import MAX_PROMPT_CHARS, Message
from del_client.terminal import safe
from del_codec.errors import InvalidValue

# Of prose it is about four; of the longest runs of blanks or dashes, more than this.
MOST_CHARS_A_TOKEN = 16
_OPENING = re.compile(r"(\\*)\{\{")


@dataclass(frozen=True, slots=True)
class Reached:
    """How far an answer had come at one moment.

    shown: characters that its caller was given. sent: characters, and ids: tokens, that the server had sent.
    """

    shown: int
    sent: int
    ids: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a request.

    ended: to be called once, when nothing more will come of it, with how far it had come at its last moments.
    """

    answer: Answer
    ended: Callable[[Iterable[Reached]], None]


def turns_of(client: AsyncClient, history: History, settings: GatewaySettings, asked: Asked) -> list[Turn]:
    """All answers that a request asks for, in the order of their index; nothing is sent yet.

    Raises InvalidValue and PrivacyRefusal for what can't be asked.
    """
    _check_length(client, asked)
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


def _check_length(client: AsyncClient, asked: Asked) -> None:
    """Refuse a prompt that the server has no room for before a tokenizer, which lets nothing else run, reads it."""
    tokens = client.info.limits.prompt_tokens
    most = min(tokens * MOST_CHARS_A_TOKEN, MAX_PROMPT_CHARS) if tokens else MAX_PROMPT_CHARS
    chars = max(asked.lengths)
    if chars > most:
        raise InvalidValue(TOO_LONG, f"{chars} characters", f"at most {most} are read for this server")


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
            turns.append(Turn(answer, lambda _: None))
        return turns

    def _known(self, label: str, said: Sequence[Said]) -> Chat:
        """What is known of a chat, with the rest of it protected; known from now on, answered or not."""
        chat = self._history.recall(label, said)
        known = len(chat.messages)
        for message, home in zip(chat.messages, chat.homes, strict=True):
            if home != chat.name:
                self._note(message, chat)
        chat = chat.after(*(self._protected(one, chat) for one in said[known:]))
        if known < len(said) - 1:
            self._history.keep(label, said[:-1], chat.up_to(len(said) - 1))  # the opening, for chats that share it
        self._history.keep(label, said, chat)
        return chat

    def _protected(self, said: Said, chat: Chat) -> Message:
        """A message that is new in its chat, as it may leave."""
        answer = self._history.answer(said) if said.role == "assistant" else None
        if answer is not None:
            self._note(answer, chat)
            return answer
        if self._settings.is_public(said.text):
            message = Message(said.role, said.text, public=True)
        elif said.role == "user" and self._asked.marks:
            message = Message(said.role, said.text)
        else:
            message = Message(said.role, _OPENING.sub(_plain, said.text))
        (protected,) = self._client.desk.chat([message], chat.placeholders)
        return protected

    def _note(self, message: Message, chat: Chat) -> None:
        """Have no secret of a chat get a placeholder that stands in a message from elsewhere."""
        self._client.desk.chat([Message(message.role, message.content, public=True)], chat.placeholders)

    def _answered(self, choice: int, label: str, said: Sequence[Said], chat: Chat) -> Turn:
        homes = {number: home for number, home in enumerate(chat.homes) if home != chat.name}
        talk = Conversation(self._client, chat.messages[:-1], {}, chat.placeholders, chat.name, homes)
        answer = talk.ask(chat.messages[-1], self._asked.options_of(choice, self._settings))

        def keep(shown: str, message: Message) -> None:
            self._history.keep(label, [*said, Said(message.role, shown)], chat.after(message))
            if message.content == answer.text:  # nothing of this chat's secrets was put back
                self._history.keep_answer(shown, message)

        def ended(moments: Iterable[Reached]) -> None:
            shown = safe(answer.text)
            if answer.ended:
                for message in talk.messages[len(chat.messages) :]:
                    if message.token_ids and shown.strip():
                        keep(shown, message)
                return
            # Left by its caller, who may not have got the last of it, and goes on from what there was.
            for moment in () if answer.failed else moments:
                if moment.ids and shown[: moment.shown].strip():
                    ids = tuple(answer.token_ids[: moment.ids])
                    keep(shown[: moment.shown], _spoken(answer.unrestored[: moment.sent], ids))

        return Turn(answer, ended)


def _spoken(text: str, token_ids: tuple[int, ...]) -> Message:
    """What the server has said, to be sent back as the very ids."""
    return Message("assistant", text, public=True, token_ids=token_ids)


def _plain(opening: re.Match[str]) -> str:
    """What is read as these very characters, where {{ would open a mark."""
    return opening[1] * 2 + "\\{{"
