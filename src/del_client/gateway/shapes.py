"""Answers in OpenAI's shapes: chat completions and text completions, whole and in chunks.

Knows nothing of where pieces come from.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from del_client.answer import Answer
from del_client.gateway.finite import logprob
from del_client.gateway.tokens import Token
from del_client.terminal import safe

Json = dict[str, Any]


class Shape(ABC):
    """One of OpenAI's two: what is said of a request, and of each choice. fingerprint: the codec's, in hex."""

    prefix = whole_object = chunk_object = prompt_field = ""

    def __init__(self, model: str, fingerprint: str, tokenizer: Tokenizer) -> None:
        self._id = f"{self.prefix}-{secrets.token_hex(14)}"
        self._created = int(time.time())
        self._model = model
        self._fingerprint = f"del_{fingerprint[:16]}"
        self._tokenizer = tokenizer

    def envelope(self, streamed: bool) -> Json:
        """id, object, created, model, system_fingerprint; the last is the codec's."""
        return {
            "id": self._id,
            "object": self.chunk_object if streamed else self.whole_object,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
        }

    @abstractmethod
    def opening(self, choice: int) -> list[Json]:
        """The chunks' choices before anything of an answer."""

    @abstractmethod
    def piece(self, choice: int, text: str, logprobs: Json | None) -> Json:
        """A chunk's choice with more of it."""

    @abstractmethod
    def ending(self, choice: int, finish: str) -> Json:
        """A chunk's choice that says why it ended, and has no text any more."""

    @abstractmethod
    def whole(self, choice: int, text: str, finish: str, logprobs: Json | None) -> Json:
        """A choice that was not streamed."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[Token]) -> Json:
        """The logprobs of these tokens of one choice."""

    def _text(self, token_id: int) -> str:
        return safe(self._tokenizer.decode([token_id], skip_special_tokens=False))


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    prompt_field = "messages"

    def opening(self, choice: int) -> list[Json]:
        """The role comes first, by itself."""
        return [_chunk(choice, {"role": "assistant", "content": "", "refusal": None}, None, None)]

    def piece(self, choice: int, text: str, logprobs: Json | None) -> Json:
        """More text."""
        return _chunk(choice, {"content": text}, logprobs, None)

    def ending(self, choice: int, finish: str) -> Json:
        """No text any more."""
        return _chunk(choice, {}, None, finish)

    def whole(self, choice: int, text: str, finish: str, logprobs: Json | None) -> Json:
        """The message of the assistant."""
        message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        return {"index": choice, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, tokens: Sequence[Token]) -> Json:
        """One entry a token."""
        entries = [
            {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(*one) for one in token.top]}
            for token in tokens
        ]
        return {"content": entries, "refusal": None}

    def _entry(self, token_id: int, value: float) -> Json:
        text = self._text(token_id)
        # A token may be part of a character alone: then it is no text, and its bytes are not known here.
        data = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": logprob(value), "bytes": data}


class TextShape(Shape):
    """Of /v1/completions."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"
    prompt_field = "prompt"

    def opening(self, choice: int) -> list[Json]:  # noqa: ARG002
        """Nothing comes first."""
        return []

    def piece(self, choice: int, text: str, logprobs: Json | None) -> Json:
        """More text."""
        return {"text": text, "index": choice, "logprobs": logprobs, "finish_reason": None}

    def ending(self, choice: int, finish: str) -> Json:
        """No text any more."""
        return {"text": "", "index": choice, "logprobs": None, "finish_reason": finish}

    def whole(self, choice: int, text: str, finish: str, logprobs: Json | None) -> Json:
        """The text."""
        return {"text": text, "index": choice, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, tokens: Sequence[Token]) -> Json:
        """Four lists with an entry a token each; offsets are those in the answer's own text."""
        return {
            "tokens": [self._text(token.id) for token in tokens],
            "token_logprobs": [logprob(token.logprob) for token in tokens],
            "top_logprobs": [{self._text(other): logprob(value) for other, value in token.top} for token in tokens],
            "text_offset": [token.start for token in tokens],
        }


def usage(answers: Sequence[Answer], choices: int) -> Json:
    """Tokens of all answers and, once for the `choices` of each, of their prompts."""
    asked = sum(answer.prepared.prompt_tokens for answer in answers[::choices])
    said = sum(len(answer.token_ids) for answer in answers)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _chunk(choice: int, delta: Mapping[str, Any], logprobs: Json | None, finish: str | None) -> Json:
    return {"index": choice, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish}
