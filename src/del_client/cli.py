"""The command line of the device: arguments, errors and exit codes. Commands are imported when they are called.

Exit codes: 0 done, 1 refused or failed, 2 bad input, 3 no server, 130 interrupted, 141 reader gone.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from del_client.defaults import DEFAULT_DELTA, DEFAULT_SERVER, RULE
from del_client.terminal import one_line
from del_codec.errors import DelError, InvalidValue, UnavailableError

FAILED, BAD_INPUT, NO_SERVER, INTERRUPTED, READER_GONE = 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run del-client with these arguments (default: the process's) and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log lines would mix with ours on stderr
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args(argv)
    try:
        command = importlib.import_module(f"del_client.commands.{arguments.command}")
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered must not be written at exit, to a pipe without a reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except DelError as error:
        sys.stderr.write(f"del-client: {one_line(str(error))}\n")
        if isinstance(error, InvalidValue):
            return BAD_INPUT
        return NO_SERVER if isinstance(error, UnavailableError) else FAILED


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="del-client",
        description="Ask a language model on a server; your words leave this device only as randomised bits.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_ask(commands)
    _add_inspect(commands)
    _add_certify(commands)
    return parser


def _add_ask(commands: argparse._SubParsersAction[_Parser]) -> None:
    ask = commands.add_parser(
        "ask",
        help="ask a question and stream the answer",
        description="Ask a question: your words leave this device only as randomised bits. Of --mu and --bits, what "
        f"you leave out is chosen by a rule: {RULE}.",
    )
    _add_prompt(ask)
    _add_connection(ask)
    ask.add_argument(
        "--max-tokens", type=int, default=0, metavar="N", help="tokens of the answer (0: the server's default)"
    )
    ask.add_argument("--temperature", type=float, default=0.0, help="0 (default): the likeliest token always")
    ask.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest tokens of this mass (1: all)")
    ask.add_argument("--seed", type=int, help="of the server's sampling")
    ask.add_argument("--public", action="store_true", help="NO PRIVACY: send the whole prompt as plain token ids")
    ask.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_inspect(commands: argparse._SubParsersAction[_Parser]) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="show what a server could read from each token",
        description="For each token: what would leave this device and what the best attack on single tokens makes of "
        "it. The bits are drawn for this preview and never sent.",
    )
    _add_prompt(inspect)
    _add_connection(inspect)
    inspect.add_argument("--codec", type=Path, metavar="FILE", help="device.safetensors or its folder; no server then")


def _add_certify(commands: argparse._SubParsersAction[_Parser]) -> None:
    certify = commands.add_parser(
        "certify",
        help="compute the exact guarantee of a setting",
        description="The exact guarantee of a setting, computed here: no server, no codec, no prompt.",
    )
    certify.add_argument("--dim", type=int, required=True, metavar="D", help="coordinates a token")
    certify.add_argument("--bits", type=int, required=True, metavar="N", help="bits a coordinate, 1 to 8")
    certify.add_argument("--mu", type=float, required=True, metavar="M", help="noise: 1 is strong, 60 is weak")
    certify.add_argument("--tokens", type=int, default=1, metavar="T", help="tokens certified together (1)")
    certify.add_argument("--delta", type=float, default=DEFAULT_DELTA, metavar="X", help=f"({DEFAULT_DELTA:g})")
    certify.add_argument("--vocabulary", type=int, default=49152, metavar="V", help="of the cap (49152)")
    certify.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_prompt(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompt", nargs="?", help='the question; "-" or nothing: standard input')
    command.add_argument("--mu", type=float, help="noise: 1 is strong, 60 is weak (default: by the rule)")
    command.add_argument("--bits", type=int, metavar="N", help="bits a coordinate, 1 to 8 (default: by the rule)")
    command.add_argument("--delta", type=float, default=DEFAULT_DELTA, help=f"of the certificate ({DEFAULT_DELTA:g})")
    command.add_argument("--system", metavar="TEXT", help="a system prompt; PUBLIC: it leaves this device in the clear")
    command.add_argument("--plain", action="store_true", help="continue the text as it stands, without a chat template")


def _add_connection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--server", default=DEFAULT_SERVER, metavar="HOST:PORT", help=f"({DEFAULT_SERVER})")
    command.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of a model not in the package")
    command.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="chat template of a model not in the package"
    )


if __name__ == "__main__":
    sys.exit(main())
