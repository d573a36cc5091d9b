"""PromptReader: a chat or a plain text to spans of token ids.

Public ids leave the device as they are, private ones never do. What of a rendered chat is the template's own is found
with marks in place of the contents (regions.py), and the text is then cut at token borders (cutting.py). Knows nothing
of latents, of the wire or of where files come from.

What this can't hide is structure: how many tokens a private span has, which kind it is, and which of the template's
characters were merged into its first and last token, is visible.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tokenizers import Tokenizer

from del_client.chat_template import ChatTemplate
from del_client.cutting import Span, cut
from del_client.message import MAX_PROMPT_CHARS, Message
from del_client.regions import Region, filled, locate, whole
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.task import Task

__all__ = ["MAX_PROMPT_CHARS", "Message", "PromptReader", "Span", "as_public"]


class PromptReader:
    """Reads prompts with one tokenizer and, where the model has one, its chat template.

    Raises ArtifactError for a tokenizer that can't encode a blank.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._template = template
        # The last token of a blank: a text that no tokenizer leaves without one, and that says nothing to a model.
        try:
            self._pad_id = (tokenizer.encode(" ", add_special_tokens=False).ids or [0])[-1]
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ArtifactError(f"the tokenizer can't encode a blank: {error}") from None

    def chat(self, messages: Sequence[Message]) -> list[Span]:
        """The spans of a chat, ready for the model's answer. A model without a template takes one message as text.

        Raises InvalidValue for messages that are empty or that the template refuses, PrivacyRefusal where a template
        changes what is written so that its protected ranges can't be found.
        """
        if not any(message.content for message in messages):
            raise InvalidValue("prompt", "", "write at least one character")
        if self._template is not None:
            text, regions = locate(self._template, messages)
            return cut(self.tokenizer, text, regions, self._pad_id)
        if len(messages) > 1:
            raise InvalidValue("messages", len(messages), "this model has no chat template: send one message")
        return self._marked(*whole(messages[0]))

    def text(self, text: str | Message) -> list[Span]:
        """The spans of a text without a template: all of it is private, but for the tokenizer's own marks around it."""
        message = Message("user", text) if isinstance(text, str) else text
        if not message.content:
            raise InvalidValue("prompt", "", "write at least one character")
        return self._marked(*whole(message))

    def task(self, task: Task, fields: Sequence[Message]) -> list[Span]:
        """The spans of a task's prompt: its template is public, the fields are as the messages say.

        Raises InvalidValue for another number of fields, or an empty one.
        """
        return self._marked(*filled(task, fields))

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a public text that stands behind others, without marks of the tokenizer's around it."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _marked(self, text: str, regions: Sequence[Region]) -> list[Span]:
        """The spans of a text that stands by itself, with the marks that the tokenizer sets around one."""
        spans = cut(self.tokenizer, text, regions, self._pad_id)
        marked = self.tokenizer.encode(text)
        own = [index for index, added in enumerate(marked.special_tokens_mask) if not added]
        before, after = marked.ids[: own[0]], marked.ids[own[-1] + 1 :]
        return [*_public(before), *spans, *_public(after)]


def _public(ids: Sequence[int]) -> list[Span]:
    return [Span(tuple(ids), private=False)] if ids else []


def as_public(prompt: Sequence[Span]) -> list[Span]:
    """The same tokens as one public span: no privacy at all."""
    return [Span(tuple(itertools.chain.from_iterable(span.token_ids for span in prompt)), private=False)]
