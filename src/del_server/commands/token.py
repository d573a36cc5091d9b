"""`del-server token`: makes, lists and revokes the tokens that callers show. Imports nothing heavy."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from del_codec.errors import InvalidValue
from del_server.access.token_file import change_tokens, read_tokens
from del_server.access.tokens import DEFAULT_QUOTA, Token, new_token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `del-server token`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a token and print it, this once")
    new.add_argument("name", help="who will show it; two tokens of one name are one caller")
    new.add_argument("--days", type=float, default=90.0, metavar="N", help="how long it holds; 0: ever (%(default)s)")
    new.add_argument("--quota", default=DEFAULT_QUOTA, metavar="CLASS", help="of its limits (%(default)s)")
    listed = actions.add_parser("list", help="print names, ids, ends and quotas")
    revoke = actions.add_parser("revoke", help="have tokens hold no longer, in running servers too")
    revoke.add_argument("which", help="an id, or a name for all of its tokens")
    for action in (new, listed, revoke):
        action.add_argument("--file", type=Path, required=True, metavar="FILE", help="the server's --tokens")


def run(arguments: argparse.Namespace) -> None:
    """Do it. Raises DelError with what to do about it."""
    {"new": _new, "list": _list, "revoke": _revoke}[arguments.action](arguments)


def _new(arguments: argparse.Namespace) -> None:
    text, token = new_token(arguments.name, arguments.quota, arguments.days)
    change_tokens(arguments.file, lambda before: (*before, token))
    try:
        print(text, flush=True)
    except OSError:  # nobody has read it, and nobody will
        change_tokens(arguments.file, lambda before: tuple(each for each in before if each.id != token.id))
        raise


def _list(arguments: argparse.Namespace) -> None:
    for token in read_tokens(arguments.file).all:
        print(f"{token.id}  {token.name}  {_end(token)}  {token.quota}")


def _end(token: Token) -> str:
    if not token.expires:
        return "for ever"
    end = datetime.datetime.fromtimestamp(token.expires, datetime.UTC)
    return f"{'expired' if token.expired() else 'until'} {end:%Y-%m-%dT%H:%MZ}"


def _revoke(arguments: argparse.Namespace) -> None:
    def without(before: tuple[Token, ...]) -> tuple[Token, ...]:
        after = tuple(token for token in before if arguments.which not in (token.id, token.name))
        if len(after) == len(before):
            raise InvalidValue("which", arguments.which, "no token has that id or name; `list` shows those there are")
        return after

    change_tokens(arguments.file, without)
