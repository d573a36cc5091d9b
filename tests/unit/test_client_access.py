"""Tokens that a device shows: read as files and variables come to hold them, and never told in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from del_client.access import MAX_FILE_BYTES, TOKEN_VARIABLE, Access, read_token
from del_codec.errors import InvalidValue

TOKEN = "del-0123456789abcdef-" + "s" * 43


@pytest.mark.parametrize("text", ["{}", "{}\n", "{}\r\n", " {}\t\n\n"])
def test_blanks_around_it_are_none_of_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(text.format(TOKEN).encode())
    assert read_token(file) == TOKEN
    assert read_token(None, {TOKEN_VARIABLE: text.format(TOKEN)}) == TOKEN


def test_none_is_none() -> None:
    assert read_token(None, {}) is None
    assert read_token(None, {TOKEN_VARIABLE: "\n"}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        f"{TOKEN}\n{TOKEN}\n".encode(),
        f"\ufeff{TOKEN}".encode(),
        TOKEN.encode() + b"\0",
        TOKEN.encode("utf-16"),
    ],
)
def test_what_is_no_one_word_is_refused_and_not_told(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(InvalidValue, match="token") as caught:
        Access(token=read_token(file))
    assert TOKEN not in str(caught.value)


def test_files_that_can_not_be_read_or_are_too_large(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(MAX_FILE_BYTES + 1))
    for file in (large, tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidValue, match=r"^server-token-file is"):
            read_token(file)
