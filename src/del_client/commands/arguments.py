"""What several commands read from their arguments: the prompt, its messages, the options, the connection."""

from __future__ import annotations

import argparse
import sys

from del_client.access import Access, read_token
from del_client.client import Client
from del_client.colours import Paint
from del_client.defaults import range_warning
from del_client.options import OptionArguments
from del_client.policy import Policy
from del_client.prompt import MAX_PROMPT_CHARS, Message
from del_client.query import PLAIN, Shaping
from del_client.retrying import Patience
from del_client.terminal import one_line
from del_codec.errors import InvalidValue, UnavailableError
from del_codec.release import check_delta
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


def read_messages(prompt: str, arguments: argparse.Namespace) -> list[Message]:
    """The prompt as a private message, after a public system message if there is one."""
    if arguments.plain and arguments.system is not None:
        raise InvalidValue("system", arguments.system, "leave it out with --plain: a plain text has no system part")
    if not prompt:
        raise InvalidValue("prompt", prompt, "write at least one character")
    before = [] if arguments.system is None else [Message("system", arguments.system, public=True)]
    return [*before, Message("user", prompt)]


def read_noise(arguments: argparse.Namespace) -> OptionArguments:
    """--mu and --bits."""
    return {"mu": arguments.mu, "bits": arguments.bits}


def read_options(arguments: argparse.Namespace) -> OptionArguments:
    """Noise and sampling."""
    return {
        **read_noise(arguments),
        "max_new_tokens": arguments.max_tokens or 0,
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "seed": getattr(arguments, "seed", None),  # a gateway has none: each of its requests may name one
        "timeout": arguments.timeout,
    }


def read_policy(arguments: argparse.Namespace) -> Policy:
    """The policy that is named, or one without limits."""
    return Policy.load(arguments.policy) if arguments.policy else Policy()


def read_delta(arguments: argparse.Namespace, policy: Policy) -> float:
    """--delta, or the policy's. Raises InvalidValue for none, PrivacyRefusal for one that the policy excludes."""
    if arguments.delta is not None:
        check_delta(arguments.delta)
    return policy.delta_for(arguments.delta)


def warn_of_range(spec: CodecSpec, mu: float | None) -> None:
    """Tell a user whose mu is not what the codec was trained for."""
    warning = None if mu is None else range_warning(spec, mu)
    if warning:
        sys.stderr.write(f"warning: {warning}\n")


def read_shaping(arguments: argparse.Namespace) -> Shaping:
    """--pad, --interval and --group."""
    return Shaping(tokens=arguments.group, interval_ms=arguments.interval, bucket_bytes=arguments.pad)


def read_access(arguments: argparse.Namespace) -> Access:
    """The options of TLS, and the token."""
    return Access(
        tls_ca=arguments.tls_ca,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_name=arguments.tls_name,
        insecure=arguments.insecure,
        token=read_token(arguments.server_token_file),
    )


def connected(arguments: argparse.Namespace, policy: Policy, shaping: Shaping = PLAIN) -> Client:
    """The client that arguments describe, to be entered."""
    return Client(
        arguments.server,
        policy=policy,
        access=read_access(arguments),
        ledger=arguments.ledger,
        tokenizer=arguments.tokenizer,
        chat_template=arguments.chat_template,
        patience=Patience(arguments.patience),
        shaping=shaping,
        interrupted=_tell,
    )


def _tell(error: UnavailableError, wait: float) -> None:
    line = f"{one_line(str(error))}; trying again in {wait:.1f} s\n"
    sys.stderr.write(Paint.of(sys.stderr).dim(line))
    sys.stderr.flush()
