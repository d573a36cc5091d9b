"""The command line of a device: arguments, a line each, for the commands that need no server.

An input's lines are the arguments. What a command reads beside them is empty: no settings, no ledger, no input.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from unittest import mock

from del_client import cli
from del_client.parser import build_parser

from ..place import file_of
from ..target import Target
from .ledger import sound

# Building it takes ten times as long as anything that is done with it.
_parser = functools.cache(build_parser)
_COMMANDS = ("certify", "budget", "policy", "config", "completion", "--help", "--version")
_WORDS = (
    "certify budget policy config completion bash zsh --dim --bits --mu --tokens --delta --vocabulary --json --by "
    "--last --forget --all --accept-clock --ledger --policy --server --temperature --seed --pad --help nan inf -1 "
    "1e400 0x10 １２ 1_0 18446744073709551616 spent.sqlite3 day server conversation"
)
_CODES = (0, 1, 2)


def check(data: bytes) -> None:
    argv = [line.decode(errors="surrogateescape") for line in data.replace(b"\0", b"").split(b"\n")]
    if argv[0] not in _COMMANDS or _is_long(argv) or any("/" in part or "~" in part for part in argv):
        return  # files are those of an empty home
    home = file_of("spent.sqlite3", sound()).parent
    environment = {"HOME": str(home), "XDG_STATE_HOME": str(home), "PATH": os.environ["PATH"]}
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="replace") for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(cli, "build_parser", _parser),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(home),
    ):
        code = _code(argv)
        out.flush()
        err.flush()
    assert code in _CODES, code
    told = err.buffer.getvalue()  # type: ignore[attr-defined]
    assert code == 0 or told.count(b"\n") == 1, told
    assert code != 0 or not told, told


def _is_long(argv: list[str]) -> bool:
    """Whether a certificate is asked of so many draws that it takes seconds, as it may."""
    return argv[0] == "certify" and any(len(part) > 5 and part.isdigit() for part in argv)


def _code(argv: list[str]) -> int:
    try:
        return cli.main(argv)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def seeds() -> list[bytes]:
    lines = (
        "certify --dim 4 --bits 1 --mu 5 --tokens 2 --delta 1e-5",
        "certify --dim 4 --bits 2 --mu 5 --vocabulary 24 --json",
        "budget --ledger spent.sqlite3 --by server --last 3 --json",
        "budget --ledger spent.sqlite3 --forget --all",
        "budget --ledger spent.sqlite3 --accept-clock",
        "policy --policy spent.sqlite3",
        "config --server a:1 --mu 3 --seed 4 --pad 64 --temperature 0.5 --insecure",
        "completion bash",
        "--help",
    )
    return [line.replace(" ", "\n").encode() for line in lines]


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (16 << 20) + 512 * size,
    modules=("del_client.parser", "del_client.cli", "del_client.commands.certify", "del_client.commands.budget"),
    most_bytes=512,
    words=tuple(word.encode() for word in _WORDS.split()),
)
