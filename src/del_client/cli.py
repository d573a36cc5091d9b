"""The command line of the device: settings, errors and exit codes. Commands are imported when they are called.

Exit codes: 0 done, 1 refused or failed, 2 bad input, 3 no server, 130 interrupted, 141 reader gone.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from del_client.config import Config
from del_client.parser import BAD_INPUT, build_parser
from del_client.terminal import one_line
from del_codec.errors import DelError, InvalidValue, UnavailableError
from del_codec.output import let_go

FAILED, NO_SERVER, INTERRUPTED, READER_GONE = 1, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run del-client with these arguments (default: the process's) and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log lines would mix with ours on stderr
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.configured:
            _configure(arguments)
        command = importlib.import_module(f"del_client.commands.{arguments.command}")
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        let_go(sys.stdout)
        return READER_GONE
    except OSError as error:
        why = one_line(error.strerror or str(error))
        if error.filename is not None:  # of a name too long, say
            sys.stderr.write(f"del-client: {one_line(str(error.filename))}: {why}; name another file\n")
            return BAD_INPUT
        let_go(sys.stdout)
        sys.stderr.write(f"del-client: not all of the output was written: {why}\n")
        return FAILED
    except DelError as error:
        sys.stderr.write(f"del-client: {one_line(str(error))}\n")
        if isinstance(error, InvalidValue):
            return BAD_INPUT
        return NO_SERVER if isinstance(error, UnavailableError) else FAILED


def _configure(arguments: argparse.Namespace) -> None:
    """Fill in what no flag set; the command sees the values that hold."""
    arguments.config = Config.load(vars(arguments))
    for name, value in arguments.config.values.items():
        if hasattr(arguments, name):
            setattr(arguments, name, value)


if __name__ == "__main__":
    sys.exit(main())
