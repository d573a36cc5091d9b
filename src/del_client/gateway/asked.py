"""What a request asks for, read from its fields: ChatAsked and TextAsked, with what both have in common.

What can't be served, and would change the answer, is refused by its name; nothing is dropped in silence. Knows nothing
of clients or servers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from del_client.gateway.errors import ApiError
from del_client.gateway.fields import Fields, missing, one_of, wrong_type
from del_client.gateway.settings import GatewaySettings
from del_client.options import OptionArguments
from del_client.query import MAX_LOGPROBS
from del_codec.noise import MAX_BITS

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_MESSAGES = 4096
MAX_PROMPTS = 16
MAX_NEW_TOKENS = (1 << 32) - 1
DEFAULT_TEXT_TOKENS = 16
MAX_TEXT_LOGPROBS = 5
_SEED = 1 << 63
# A role as OpenAI has it, and as chat templates do.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
# Of fields that can't be served, the values that ask for nothing. What only names or keeps a request at OpenAI is so
# for every value of it that asks for no more than that.
_SAMPLING: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
_CHAT: Mapping[str, tuple[Any, ...]] = {
    **_SAMPLING,
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_TEXT: Mapping[str, tuple[Any, ...]] = {**_SAMPLING, "echo": (False,), "suffix": ("",)}
_MESSAGE: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "refusal": (),
    "tool_calls": ([],),
}


@dataclass(frozen=True, slots=True)
class Said:
    """One message as an app sends it: whose, and the text. Nothing in it says who wrote it first."""

    role: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(ABC):
    """What chats and texts have in common. options: without those that the request doesn't name. choices: answers.

    usage: whether a stream ends with it. marks: whether {{marks}} are read in what the user wrote. label: keeps what is
    remembered apart; never sent.
    """

    model: str
    options: OptionArguments
    choices: int
    stream: bool
    usage: bool
    marks: bool
    label: str

    @property
    @abstractmethod
    def lengths(self) -> list[int]:
        """Characters of each prompt."""

    def options_of(self, choice: int, settings: GatewaySettings) -> OptionArguments:
        """All options of one choice: the device's where the request names none, and a seed of its own."""
        options: OptionArguments = {**settings.options, **self.options}
        seed = options.get("seed")
        if seed is not None:
            options["seed"] = (seed + choice) % (2 * _SEED)
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsked(Asked):
    """A chat to be answered."""

    messages: tuple[Said, ...]

    @property
    def lengths(self) -> list[int]:
        """Of the one that there is."""
        return [sum(len(message.text) for message in self.messages)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAsked(Asked):
    """Texts to be continued, each on its own."""

    prompts: tuple[str, ...]

    @property
    def lengths(self) -> list[int]:
        """Of each."""
        return [len(prompt) for prompt in self.prompts]


def read_chat(body: Mapping[str, Any]) -> ChatAsked:
    """A request of /v1/chat/completions. Raises ApiError that names the field."""
    fields = Fields(body)
    messages = _messages(fields.take("messages"))
    tokens = _one_of_two(fields, "max_completion_tokens", "max_tokens")
    wanted = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, MAX_LOGPROBS)
    if top is not None and not wanted:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
    logprobs = (top or 0) if wanted else None
    return ChatAsked(**_common(fields, _CHAT, tokens, logprobs), messages=messages)


def read_text(body: Mapping[str, Any]) -> TextAsked:
    """A request of /v1/completions. Raises ApiError that names the field."""
    fields = Fields(body)
    prompts = fields.texts("prompt", MAX_PROMPTS)
    if not prompts:
        raise missing("prompt")
    tokens = fields.whole("max_tokens", 1, MAX_NEW_TOKENS) or DEFAULT_TEXT_TOKENS
    logprobs = fields.whole("logprobs", 0, MAX_TEXT_LOGPROBS)
    best_of = fields.whole("best_of", 1, MAX_CHOICES)
    common = _common(fields, _TEXT, tokens, logprobs)
    if best_of is not None and best_of != common["choices"]:
        raise ApiError(400, "best_of can't differ from n here", param="best_of", code="unsupported_value")
    return TextAsked(**common, prompts=tuple(prompts))


def _common(
    fields: Fields, neutral: Mapping[str, tuple[Any, ...]], tokens: int | None, logprobs: int | None
) -> dict[str, Any]:
    own = fields.fields("del")
    choices = fields.whole("n", 1, MAX_CHOICES) or 1
    stream = fields.flag("stream")
    options = _options(fields, own, tokens, logprobs)
    read_marks = own.take("marks")
    if read_marks is not None and not isinstance(read_marks, bool):
        raise wrong_type("del.marks", "true or false")
    own.finish({})
    usage = _stream_options(fields, stream)
    label = "\0".join(fields.text(name) or "" for name in ("user", "safety_identifier", "prompt_cache_key"))
    model = fields.needed_text("model")
    fields.finish(neutral)
    return {
        "model": model,
        "options": options,
        "choices": choices,
        "stream": stream,
        "usage": usage,
        "marks": read_marks is not False,
        "label": label,
    }


def _options(fields: Fields, own: Fields, tokens: int | None, logprobs: int | None) -> OptionArguments:
    """The options that a request names. What Options refuses names its field itself."""
    seed = fields.whole("seed", -_SEED, 2 * _SEED - 1)
    temperature, top_p = fields.number("temperature", 0, 2), fields.number("top_p", 0, 1)
    if top_p == 0:  # of the likeliest tokens the first alone
        temperature, top_p = 0.0, None
    found: dict[str, Any] = {
        "max_new_tokens": tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": None if seed is None else seed % (2 * _SEED),
        "logprobs": logprobs,
        "stop": fields.texts("stop", MAX_STOPS) or None,
        "mu": own.number("mu"),
        "bits": own.whole("bits", 1, MAX_BITS),
        "clear": own.flag("clear") or None,
        "top_k": own.whole("top_k", 0, MAX_NEW_TOKENS),
        "repetition_penalty": own.number("repetition_penalty"),
    }
    options: OptionArguments = {name: value for name, value in found.items() if value is not None}  # type: ignore[assignment]
    return options


def _stream_options(fields: Fields, stream: bool) -> bool:
    given = fields.take("stream_options")
    if given is None:
        return False
    if not isinstance(given, dict):
        raise wrong_type("stream_options", "an object")
    if not stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")
    inside = Fields(given, "stream_options")
    usage = inside.flag("include_usage")
    inside.finish({"include_obfuscation": (False,)})
    return usage


def _one_of_two(fields: Fields, newer: str, older: str) -> int | None:
    """A number of tokens that may be given under two names."""
    one, other = fields.whole(newer, 1, MAX_NEW_TOKENS), fields.whole(older, 1, MAX_NEW_TOKENS)
    if one is not None and other is not None and one != other:
        raise ApiError(400, f"{newer} and {older} differ: give one of them", param=older, code="invalid_value")
    return other if one is None else one


def _messages(value: Any) -> tuple[Said, ...]:
    if value is None:
        raise missing("messages")
    if not isinstance(value, list):
        raise wrong_type("messages", "a list")
    if not 1 <= len(value) <= MAX_MESSAGES:
        raise ApiError(400, f"a chat has 1 to {MAX_MESSAGES} messages", param="messages", code="invalid_value")
    return tuple(_message(one, f"messages[{index}]") for index, one in enumerate(value))


def _message(value: Any, path: str) -> Said:
    if not isinstance(value, dict):
        raise wrong_type(path, "an object")
    fields = Fields(value, path)
    role = fields.needed_text("role")
    one_of(f"{path}.role", role, _ROLES, ", ".join(_ROLES))
    content = fields.take("content")
    if content is None:
        fields.finish(_MESSAGE)  # tool calls without a text are refused by their own name
        raise missing(f"{path}.content")
    if role == "tool":
        fields.text("tool_call_id")
    fields.finish(_MESSAGE)
    return Said(_ROLES[role], _content(content, f"{path}.content"))


def _content(value: Any, path: str) -> str:
    """A text, or the texts of several parts, a line each."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise wrong_type(path, "a string or a list of parts")
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict):
            raise wrong_type(f"{path}[{index}]", "an object")
        fields = Fields(part, f"{path}[{index}]")
        one_of(fields.path("type"), fields.needed_text("type"), ("text",), "text: nothing else is private here")
        texts.append(fields.needed_text("text"))
        fields.finish({"prompt_cache_breakpoint": ()})
    return "\n".join(texts)
