"""The command line of the server: picks a command and prints its errors. Commands are imported when they are called.

A command is a module of del_server.commands with add_arguments(parser) and run(arguments).
Exit codes: 0 done, 1 the engine failed or output can't be written, 2 bad input (a value, a file, a model), 130
interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from del_codec.errors import DelError, EngineError
from del_codec.output import let_go
from del_server import logs

COMMANDS = {
    "serve": "answer private prompts over gRPC",
    "token": "make, list and revoke what callers show",
    "train": "make a codec for a model",
    "evaluate": "measure what a codec is worth and what it gives away",
    "calibrate": "find the noise at which an attack reads a wanted share of tokens",
    "audit": "try to refute what is certified, from what a server receives",
    "train-task": "add a question about private texts to a codec",
    "evaluate-task": "measure how well such a question is answered",
}
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run del-server with these arguments (default: the process's) and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log lines would mix with ours on stderr
    logs.set_up("text", "warning")
    chosen = _parser().parse_args(argv)
    command = importlib.import_module(f"del_server.commands.{chosen.command.replace('-', '_')}")
    summary = COMMANDS[chosen.command]
    parser = argparse.ArgumentParser(
        prog=f"del-server {chosen.command}", description=f"{summary[0].upper()}{summary[1:]}."
    )
    command.add_arguments(parser)
    try:
        command.run(parser.parse_args(chosen.arguments))
        sys.stdout.flush()
    except DelError as error:
        print(f"del-server: {error}", file=sys.stderr)
        return FAILED if isinstance(error, EngineError) else BAD_INPUT
    except OSError as error:
        if error.filename is None and error.errno not in _OF_OUTPUT:
            raise
        if error.filename is not None:
            print(f"del-server: {error.filename}: {error.strerror}; name another file", file=sys.stderr)
            return BAD_INPUT
        let_go(sys.stdout)
        print(f"del-server: not all of the output was written: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            let_go(sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:15}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="del-server",
        description="The server of DEL: a language model that answers prompts it can't read word for word.",
        epilog=f"commands:\n{listed}\n\ndel-server COMMAND --help lists a command's arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's arguments")
    return parser


if __name__ == "__main__":
    sys.exit(main())
