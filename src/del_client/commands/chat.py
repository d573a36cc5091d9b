"""`del-client chat`: a conversation in the terminal. What may be typed is talk.py's; here is the reading of lines.

Lines are edited with the standard library's readline, where Python has it; their history is kept in memory alone.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable

from del_client.client import Client
from del_client.colours import Paint
from del_client.commands.arguments import connected, read_options, read_policy, read_shaping, warn_of_range
from del_client.commands.budget import account
from del_client.options import Options
from del_client.policy import Policy
from del_client.spending import budget
from del_client.talk import Talk
from del_client.terminal import one_line

_CONVERSATIONS_SHOWN = 5
_BLOCK = '"""'


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user ends it; 0."""
    options = read_options(arguments)
    Options(**options)
    policy = read_policy(arguments)
    with connected(arguments, policy, read_shaping(arguments)) as client:
        warn_of_range(client.table.spec, arguments.mu)
        talk = Talk(client, arguments.system, options, sys.stdout, lambda: _account(client, policy))
        if sys.stdin.isatty():
            _edit_lines(talk.commands)
            greeting = f"{one_line(client.info.model)} at {client.server}; /help lists what else may be typed\n"
            sys.stdout.write(Paint.of(sys.stdout).dim(greeting))
        with contextlib.suppress(EOFError):
            while True:
                try:
                    talk.take(read_text())
                except KeyboardInterrupt:
                    sys.stdout.write("\n")
    return 0


def _account(client: Client, policy: Policy) -> str:
    return account(budget(client.ledger, policy, "conversation", _CONVERSATIONS_SHOWN), policy)


def read_text() -> str:
    """One message: a line, several where each but the last ends in a backslash, or what stands between two \"\"\".

    Raises EOFError at the end of the input.
    """
    prompt, more = ("> ", ". ") if sys.stdin.isatty() else ("", "")
    line = input(prompt)
    if line.strip() == _BLOCK:
        block: list[str] = []
        while (line := input(more)).strip() != _BLOCK:
            block.append(line)
        return "\n".join(block)
    parts = [line]
    while parts[-1].endswith("\\"):
        parts[-1] = parts[-1][:-1]
        parts.append(input(more))
    return "\n".join(parts)


def _edit_lines(commands: Iterable[str]) -> None:
    """History by the arrow keys, and commands completed by Tab."""
    try:
        import readline
    except ImportError:
        return
    names = sorted(commands)

    def complete(text: str, state: int) -> str | None:
        found = [name for name in names if text.startswith("/") and name.startswith(text)]
        return found[state] if state < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
