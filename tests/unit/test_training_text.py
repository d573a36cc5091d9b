"""Text files to ids, and ids to batches: what training and evaluation read."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from del_codec.errors import ArtifactError, InvalidValue
from del_server.training.self_text import SelfText, template_between, template_parts
from del_server.training.text import (
    ChatSample,
    Ids,
    chat_batch,
    detokenize_wikitext,
    read_dataset,
    read_texts,
    text_batch,
    tokenize,
    windows,
)

GUTENBERG = """\ufeffThe Project Gutenberg EBook of Nothing

Title: Nothing

*** START OF THIS PROJECT GUTENBERG EBOOK NOTHING ***

CHAPTER I.

It was a dark
and stormy night;

  the rain fell
in torrents.

*** END OF THIS PROJECT GUTENBERG EBOOK NOTHING ***

This file should be named nothing.txt, and may be copied under the licence.
"""


def ids(*values: int) -> Ids:
    return np.array(values, dtype=np.int64)


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.xz", "README"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    text = "Sì, one.\nTwo lines.\n\nA paragraph.\n"
    assert read_texts(write(tmp_path / name, text)) == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.xz"])
def test_a_jsonl_file_has_a_document_on_each_line(tmp_path: Path, name: str) -> None:
    records = [{"text": "one", "label": 1}, {"instruction": "two"}, {"review": "three"}, {"text": "4", "review": "no"}]
    lines = "\n".join(json.dumps(record) for record in records)
    assert read_texts(write(tmp_path / name, f"{lines}\n\n")) == ["one", "two", "three", "4"]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_record(tmp_path: Path, inside: str) -> None:
    text = f"one{inside}still one"
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert read_texts(write(tmp_path / "a.jsonl", f"{line}\r\n{line}\r\n")) == [text, text]


@pytest.mark.parametrize(
    "line", ["{", "5", "null", "[]", '["text"]', '"text"', "{}", '{"words": "a"}', '{"text": null}', '{"text": ["a"]}']
)
def test_a_record_without_text_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n\n' + line)
    with pytest.raises(ArtifactError, match=r"a\.jsonl line 3 is not a JSON object with a text field"):
        read_texts(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_gutenbergs_licence_goes_and_a_paragraphs_lines_are_joined(tmp_path: Path, newline: str) -> None:
    (book,) = read_texts(write(tmp_path / "book.txt", GUTENBERG.replace("\n", newline)))
    paragraphs = [part.strip() for part in book.split("\n\n") if part.strip()]
    assert paragraphs == ["CHAPTER I.", "It was a dark and stormy night;", "the rain fell in torrents."]
    assert "\r" not in book


def test_text_that_is_no_book_keeps_its_lines(tmp_path: Path) -> None:
    assert read_texts(write(tmp_path / "poem.txt", "a line\nanother\n")) == ["a line\nanother\n"]


@pytest.mark.parametrize(
    ("tokenised", "plain"),
    [
        (" a guest @-@ starring role of 1 @,@ 000 or 1 @.@ 5 ", "a guest-starring role of 1,000 or 1.5 "),
        (" Well , he ( the actor ) said : no ; yes ! ", "Well, he (the actor) said: no; yes! "),
        (' the episode " Teddy \'s Story " of ', 'the episode "Teddy\'s Story" of '),
        (" they do n't , we 're , it 'll ", "they don't, we're, it'll "),
        (" Robert <unk> is ", "Robert <unk> is "),
        (" one \n \n two ", "one \n\ntwo "),
    ],
)
def test_wikitexts_spacing_is_undone(tokenised: str, plain: str) -> None:
    assert detokenize_wikitext(tokenised) == plain


def test_a_wikitext_file_is_known_by_its_hyphens(tmp_path: Path) -> None:
    path = write(tmp_path / "wiki.txt", " = Title = \n well @-@ known , \n")
    assert read_texts(path) == ["= Title = \nwell-known, \n"]


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    compressed = lzma.compress(b"text " * 1000)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "plain.xz").write_bytes(b"not compressed")
    (tmp_path / "cut.txt.xz").write_bytes(compressed[: len(compressed) // 2])
    (tmp_path / "folder.txt").mkdir()
    for name in ("latin.txt", "plain.xz", "cut.txt.xz", "folder.txt", "missing.txt"):
        with pytest.raises(ArtifactError, match=f"{name} can't be read as UTF-8 text"):
            read_texts(tmp_path / name)


def test_documents_become_one_stream_with_a_separator_after_each() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        return type("Encoding", (), {"input_ids": [ord(character) for character in text]})

    assert tokenize(tokenizer, ["ab", "", "c"], 0).tolist() == [97, 98, 0, 0, 99, 0]
    assert tokenize(tokenizer, [], 0).tolist() == []


def test_a_text_batch_is_windows_of_the_stream_cut_in_prompt_and_continuation() -> None:
    batch = text_batch(np.arange(1000), np.random.default_rng(0), count=50, prompt=7, continuation=3)
    assert (batch.prompt.shape, batch.target.shape) == ((50, 7), (50, 3))
    whole = np.concatenate([batch.prompt, batch.target], axis=1)
    assert (np.diff(whole, axis=1) == 1).all()
    assert len(set(whole[:, 0].tolist())) > 30
    assert batch.private.all()
    assert batch.present.all()
    assert batch.scored.all()


def test_a_text_batch_reaches_both_ends_of_the_stream() -> None:
    batch = text_batch(np.arange(11), np.random.default_rng(0), count=50, prompt=7, continuation=3)
    assert (batch.prompt.min(), batch.target.max()) == (0, 10)


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    assert text_batch(np.arange(10), np.random.default_rng(0), 1, 7, 3).prompt.tolist() == [list(range(7))]
    with pytest.raises(InvalidValue, match="text is '9 tokens': give at least 10 tokens of text"):
        text_batch(np.arange(9), np.random.default_rng(0), 1, 7, 3)
    with pytest.raises(InvalidValue, match="text is '9 tokens': give at least 10 tokens of text"):
        next(windows(np.arange(9), 1, 7, 3))


@given(st.integers(10, 3000), st.integers(1, 100))
def test_evaluations_windows_are_whole_spread_out_and_apart(length: int, count: int) -> None:
    batches = list(windows(np.arange(length), count, prompt=7, continuation=3))
    starts = np.concatenate([batch.prompt[:, 0] for batch in batches])
    assert len(starts) == min(count, length // 10)
    assert all(len(batch.prompt) <= 32 for batch in batches)
    assert (np.diff(starts) >= 10).all()
    assert starts[0] == 0
    assert len(starts) == 1 or starts[-1] == length - 10
    whole = np.concatenate([np.concatenate([b.prompt, b.target], axis=1) for b in batches])
    assert np.array_equal(whole, starts[:, None] + np.arange(10))


TURNS = [
    ChatSample(before=ids(1, 2), words=ids(10, 11, 12), after=ids(3), answer=ids(20, 21, 22, 23)),
    ChatSample(before=ids(1, 2), words=ids(13), after=ids(3), answer=ids(24)),
]


def test_a_chat_batch_ends_every_prompt_where_its_answer_begins() -> None:
    batch = chat_batch(TURNS, np.zeros(0, dtype=np.int64), np.random.default_rng(0), count=40, continuation=3)
    rows = {
        (
            tuple(batch.prompt[row].tolist()),
            tuple(batch.private[row].astype(int).tolist()),
            tuple(batch.present[row].astype(int).tolist()),
            tuple(batch.target[row].tolist()),
            tuple(batch.scored[row].astype(int).tolist()),
        )
        for row in range(40)
    }
    assert rows == {
        ((1, 2, 10, 11, 12, 3), (0, 0, 1, 1, 1, 0), (1, 1, 1, 1, 1, 1), (20, 21, 22), (1, 1, 1)),
        ((0, 0, 1, 2, 13, 3), (0, 0, 0, 0, 1, 0), (0, 0, 1, 1, 1, 1), (24, 0, 0), (1, 0, 0)),
    }


def test_a_models_own_samples_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "self_text.safetensors"
    SelfText([ids(5, 6, 7), ids(8)], TURNS).save(path)
    loaded = SelfText.load(path)
    assert [document.tolist() for document in loaded.documents] == [[5, 6, 7], [8]]
    parts = [[part.tolist() for part in (t.before, t.words, t.after, t.answer)] for t in loaded.turns]
    assert parts == [[[1, 2], [10, 11, 12], [3], [20, 21, 22, 23]], [[1, 2], [13], [3], [24]]]


def test_no_samples_come_back_as_none(tmp_path: Path) -> None:
    path = tmp_path / "self_text.safetensors"
    SelfText([], []).save(path)
    assert SelfText.load(path) == SelfText([], [])


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_another_file_is_no_samples(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "self_text.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="does not hold a model's own samples"):
        SelfText.load(path)


def test_the_template_around_a_users_words(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before, after = template_parts(tokenizer)
    words = tokenizer("hello", add_special_tokens=False).input_ids
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_dict=False
    )
    assert [*before.tolist(), *words, *after.tolist()] == rendered


def test_what_stands_between_an_answer_and_the_next_words(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before, after = template_parts(tokenizer)
    between = template_between(tokenizer)
    first, answer, second = (tokenizer(t, add_special_tokens=False).input_ids for t in ("hello", "yes", "why"))
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    rendered = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": "why"}], add_generation_prompt=True, return_dict=False
    )
    assert [*before, *first, *after, *answer, *between, *second, *after] == rendered
    tokenizer.chat_template = None
    assert not len(template_between(tokenizer))


def test_some_chats_have_an_earlier_turn_whose_answer_is_public() -> None:
    between = ids(4, 5)
    seen = set()
    for seed in range(20):
        batch = chat_batch(TURNS, between, np.random.default_rng(seed), count=40, continuation=3)
        for row in range(40):
            there = batch.present[row]
            text = tuple(batch.prompt[row][there].tolist())
            private = tuple(batch.prompt[row][batch.private[row]].tolist())
            seen.add((text, private, tuple(batch.target[row][batch.scored[row]].tolist())))
    single = {t for t in seen if 4 not in t[0]}
    assert single == {
        ((1, 2, 10, 11, 12, 3), (10, 11, 12), (20, 21, 22)),
        ((1, 2, 13, 3), (13,), (24,)),
    }
    assert seen - single == {
        ((1, 2, 10, 11, 12, 3, 20, 21, 22, 23, 4, 5, 13, 3), (10, 11, 12, 13), (24,)),
        ((1, 2, 13, 3, 24, 4, 5, 10, 11, 12, 3), (13, 10, 11, 12), (20, 21, 22)),
        ((1, 2, 10, 11, 12, 3, 20, 21, 22, 23, 4, 5, 10, 11, 12, 3), (10, 11, 12) * 2, (20, 21, 22)),
        ((1, 2, 13, 3, 24, 4, 5, 13, 3), (13, 13), (24,)),
    }


def test_a_dataset_that_can_not_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="dataset is 'no/such:config:train': can't be loaded"):
        read_dataset("no/such:config:train", 5)
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": ""}\n{"text": "three"}\n')
    assert read_dataset(f"{tmp_path}::train", 3) == ["one", "two"]
    (tmp_path / "rows.jsonl").write_text('{"words": "one"}\n')
    with pytest.raises(InvalidValue, match="have no field `text`"):
        read_dataset(f"{tmp_path}::train", 3)
