"""Logs: a line for each event on standard error, for people or as JSON, without a word of prompts, answers or secrets.

What a program error says may quote what it was given, so of an exception a log has its kind and the places that it came
through; its words only where they are the system's, the model's runtime's or our own on a file.
"""

from __future__ import annotations

import datetime
import json
import logging
import select
import sys
import traceback
from typing import Any

from del_codec.errors import ArtifactError, EngineError

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_FIELDS = "del_fields"
_QUOTABLE = (OSError, MemoryError, RuntimeError, ArtifactError, EngineError)
_MOST_CAUSES, _MOST_CHARS = 4, 500
# Characters; in UTF-8 no more than the 4096 bytes that a pipe takes at once when it takes any.
_PIECE = 1024


def set_up(form: str, level: str) -> None:
    """Log to standard error from now on, in one of FORMATS, from one of LEVELS on."""
    root = logging.getLogger()
    for former in [handler for handler in root.handlers if isinstance(handler, _StandardError)]:
        root.removeHandler(former)
    handler = _StandardError()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root.addHandler(handler)
    root.setLevel(level.upper())


def in_force() -> tuple[str, str]:
    """One of FORMATS and one of LEVELS, for a process that is to log as this one does."""
    root = logging.getLogger()
    as_json = any(isinstance(handler.formatter, JsonLines) for handler in root.handlers)
    level = logging.getLevelName(root.level).lower()
    return ("json" if as_json else "text"), (level if level in LEVELS else "warning")


def fields(**values: Any) -> dict[str, Any]:
    """What a structured event says, as `extra` of a logger's methods."""
    return {_FIELDS: values}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Those of an event."""
    found: dict[str, Any] = getattr(record, _FIELDS, {})
    return found


class _StandardError(logging.Handler):
    """Writes to what standard error is at the time, and never waits for who reads it.

    What there is no room for is lost, and how much that was is told once there is room again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost and _has_room():
                lost, self._lost = self._lost, 0
                told = logging.LogRecord(__name__, logging.WARNING, __file__, 0, f"{lost} lines were lost", None, None)
                self._write(self.format(told) + "\n")
            self._write(self.format(record) + "\n")
        except OSError:
            self._lost += 1

    def _write(self, text: str) -> None:
        for start in range(0, len(text), _PIECE):
            if not _has_room():
                self._lost += 1
                break
            sys.stderr.write(text[start : start + _PIECE])
            sys.stderr.flush()


def _has_room() -> bool:
    """Whether a piece can be written to standard error without waiting."""
    try:
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file of the system's
        return True
    return bool(poll.poll(0))


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the event's own fields, and an exception's kind."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = described(record.exc_info[1])
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """Time, level, logger and message in one line, an event's fields behind them, an exception's places below."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines; whatever a client chose can't begin one."""
        values = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        text = f"{record.getMessage()}{values}".encode("unicode_escape").decode()
        lines = [f"{_time(record)} {record.levelname} {record.name}: {text}"]
        if record.exc_info and record.exc_info[1]:
            lines += [f"  {line}" for line in described(record.exc_info[1])]
        return "\n".join(lines)


def described(error: BaseException) -> list[str]:
    """An exception and its causes: kind, words where they may be quoted, and places, the innermost last."""
    lines: list[str] = []
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            break
        words = f": {str(cause)[:_MOST_CHARS]!r}" if isinstance(cause, _QUOTABLE) else ""
        lines.append(f"{type(cause).__module__}.{type(cause).__qualname__}{words}")
        places = traceback.extract_tb(cause.__traceback__)
        lines += [f"{place.filename}:{place.lineno} {place.name}" for place in places]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return lines


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
