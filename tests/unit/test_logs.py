"""Logs: one line an event, nothing that a caller wrote in them, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from del_codec.errors import EngineError, InvalidValue
from del_server import logs

CANARY = "my-secret-diagnosis"


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What went to standard error since the last look."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = handlers, level


def fail(error: Exception) -> None:
    try:
        raise error
    except Exception:
        logging.getLogger("del_server.test").exception("it failed")


def line_of(text: str) -> dict[str, Any]:
    """The one line that was written, read as JSON."""
    (line,) = text.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize("error", [ValueError(CANARY), KeyError(CANARY), InvalidValue("field", CANARY, CANARY)])
def test_an_exception_is_logged_without_its_words(written: Callable[[], str], form: str, error: Exception) -> None:
    logs.set_up(form, "debug")
    fail(error)
    text = written()
    assert CANARY not in text
    assert type(error).__name__ in text
    assert "test_logs.py" in text


def test_causes_are_named_and_do_not_speak_either(written: Callable[[], str]) -> None:
    logs.set_up("json", "debug")
    try:
        try:
            raise UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY)
        except UnicodeDecodeError as error:
            raise EngineError("out of memory") from error
    except EngineError:
        logging.getLogger("x").exception("it failed")
    text = written()
    assert CANARY not in text
    described = " ".join(line_of(text)["exception"])
    assert "EngineError: 'out of memory'" in described
    assert "builtins.UnicodeDecodeError" in described


def test_a_json_line_has_the_events_fields(written: Callable[[], str]) -> None:
    logs.set_up("json", "info")
    logging.getLogger("x").info("query ended", extra=logs.fields(caller="ada", query=3))
    logging.getLogger("x").debug("not this")
    line = line_of(written())
    assert (line["level"], line["logger"], line["message"]) == ("info", "x", "query ended")
    assert (line["caller"], line["query"]) == ("ada", 3)
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("form", logs.FORMATS)
def test_what_a_caller_chose_begins_no_line_of_its_own(written: Callable[[], str], form: str) -> None:
    logs.set_up(form, "info")
    logging.getLogger("x").info("a\nb", extra=logs.fields(caller="c\n2026-01-01 ERROR forged\x1b[31m"))
    text = written()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_setting_up_anew_replaces_what_was_set_up(written: Callable[[], str]) -> None:
    for form in (*logs.FORMATS, "json"):
        logs.set_up(form, "info")
    logging.getLogger("x").info("once")
    assert len(written().splitlines()) == 1


def test_bars_of_libraries_stay_out_of_what_is_no_terminal() -> None:
    program = "from del_server.commands.serve import no_bars_in_logs; no_bars_in_logs()\n"
    program += "from tqdm.auto import tqdm; print(*tqdm('ab'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a b\n", "")
