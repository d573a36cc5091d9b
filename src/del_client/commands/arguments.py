"""What several commands read from their arguments: the prompt, its spans, the setting, the connection."""

from __future__ import annotations

import argparse
import sys

from del_client.defaults import DEFAULT_BITS, default_mu, range_warning
from del_client.prompt import MAX_PROMPT_CHARS, Message, PromptReader, Span
from del_client.session import AsyncClient
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.spec import CodecSpec


def read_prompt(argument: str | None) -> str:
    """The prompt: the argument, or standard input where it is "-" or absent and input is piped.

    Of piped input the last line's end is dropped. Raises InvalidValue for no prompt, or one that is not UTF-8.
    """
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise InvalidValue("prompt", "", 'write it in quotes, or pipe it: echo "..." | del-client ask')
    data = sys.stdin.buffer.read(4 * MAX_PROMPT_CHARS + 1)
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidValue("prompt", f"not UTF-8 at byte {error.start}", "write it in UTF-8") from None


def read_spans(reader: PromptReader, prompt: str, arguments: argparse.Namespace) -> list[Span]:
    """The prompt's spans, after a public system message if there is one, or as plain text."""
    if arguments.plain:
        if arguments.system is not None:
            raise InvalidValue("system", arguments.system, "leave it out with --plain: a plain text has no system part")
        return reader.text(prompt)
    messages = [] if arguments.system is None else [Message("system", arguments.system, public=True)]
    if not prompt:
        raise InvalidValue("prompt", prompt, "write at least one character")
    return reader.chat([*messages, Message("user", prompt)])


def read_setting(spec: CodecSpec, arguments: argparse.Namespace) -> NoiseSetting:
    """--mu and --bits, each by the default rule where absent; warns where the codec was not trained for it."""
    bits = DEFAULT_BITS if arguments.bits is None else arguments.bits
    mu = default_mu(spec) if arguments.mu is None else arguments.mu
    setting = NoiseSetting.from_mu(mu, spec.dim, bits)
    warning = range_warning(spec, mu)
    if warning:
        sys.stderr.write(f"warning: {warning}\n")
    return setting


def connect(arguments: argparse.Namespace) -> AsyncClient:
    """The client, not yet connected."""
    return AsyncClient(arguments.server, tokenizer=arguments.tokenizer, chat_template=arguments.chat_template)
