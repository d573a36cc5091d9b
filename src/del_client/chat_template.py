"""ChatTemplate: a model's Jinja chat template, rendered in a sandbox as the `transformers` library renders it.

Knows nothing of tokens or of what is private.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from del_codec.errors import ArtifactError, InvalidValue, MismatchError

MAX_TEMPLATE_CHARS = 1 << 18
MAX_RENDERED_CHARS = 1 << 22
_SPECIAL_TOKENS = {"bos_token", "eos_token", "unk_token", "pad_token"}


class ChatTemplate:
    """A compiled template. Raises ArtifactError if it can't be compiled, MismatchError if it needs what isn't there."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ArtifactError(f"chat template has {len(source)} characters: at most {MAX_TEMPLATE_CHARS}")
        environment = _environment()
        try:
            missing = jinja2.meta.find_undeclared_variables(environment.parse(source)) & _SPECIAL_TOKENS
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:  # the latter where it nests too deeply
            raise ArtifactError(f"chat template can't be compiled: {error}") from None
        if missing:
            # An undefined name renders as nothing, so the prompt would silently differ from the model's own.
            raise MismatchError(
                f"chat template uses {', '.join(sorted(missing))}, which a device doesn't know: "
                "make the codec with a template that sets it, as in {% set bos_token = '<s>' %}"
            )

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of messages (role, content), ending where the model's answer begins.

        Raises InvalidValue if the template refuses the messages or writes more than MAX_RENDERED_CHARS.
        """
        context = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(context):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    break
        except Exception as error:  # a template is a program: it can fail in any way
            roles = [message["role"] for message in messages]
            raise InvalidValue("messages", roles, f"the chat template refuses them ({error})") from None
        if size > MAX_RENDERED_CHARS:
            raise InvalidValue("messages", f"over {size - 1} characters", f"at most {MAX_RENDERED_CHARS} when rendered")
        return "".join(pieces)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers.utils.chat_template_utils: whitespace rules, filters and globals."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
