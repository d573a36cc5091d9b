"""Tokens to whole UTF-8: the pieces join to what the tokenizer makes of all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from del_server.text import AnswerText


def byte_tokenizer() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = byte_tokenizer()


def pieces(tokens: list[int], before: list[int] | None = None, tokenizer: Tokenizer = BYTES) -> list[str]:
    text = AnswerText(tokenizer, before or [])
    return [*(text.push(token) for token in tokens), text.flush()]


@given(st.text(max_size=40))
def test_text_comes_out_whole_character_by_character(text: str) -> None:
    found = pieces(BYTES.encode(text).ids)
    assert "".join(found) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in found)


@given(st.text(min_size=1, max_size=20), st.data())
def test_a_resumed_answer_goes_on_where_it_was_cut_off(text: str, data: st.DataObject) -> None:
    tokens = BYTES.encode(text).ids
    cut = data.draw(st.integers(0, len(tokens)))
    head = AnswerText(BYTES)
    sent = "".join(head.push(token) for token in tokens[:cut])
    if "\ufffd" not in text:
        assert sent + "".join(pieces(tokens[cut:], before=tokens[:cut])) == text


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), max_size=15))
def test_bytes_that_are_no_characters_still_join_to_what_the_tokenizer_says(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == BYTES.decode(tokens)


@given(st.lists(st.integers(0, 255), max_size=200))
def test_every_piece_is_text_and_little_is_held_back(tokens: list[int]) -> None:
    text = AnswerText(BYTES)
    for token in tokens:
        text.push(token).encode("utf-8")
        assert len(text._pending) < 16


def test_special_tokens_leave_no_text(tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    assert pieces([*tokenizer.encode("hi").ids, 2], tokenizer=tokenizer) == ["h", "i", "", ""]


@pytest.mark.parametrize("text", ["Hello world", " two  spaces ", "naïve café"])
def test_spaces_survive_a_tokenizer_that_strips_the_first(text: str) -> None:
    words = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "▁": 257, "▁world": 258}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = [257 if character == " " else byte + 1 for character in text for byte in character.encode()]
    assert "".join(pieces([257, *tokens], tokenizer=tokenizer)) == text
