"""Labelled texts in the formats of the usual sets, and their way to token ids."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from del_client.message import Message
from del_client.prompt import PromptReader
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.task import Task
from del_server.understanding.built_in import TASKS, choose
from del_server.understanding.examples import Example, read_examples
from del_server.understanding.questions import label_ids, read_questions, shorten

MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    '1\t702876\t702977\tHe called him "the witness, again.\tHe did so.\r\n'
)
PAIR = Task("pair", "A: {}\nB: {}\nSame?", ("no", "yes"))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mrpc.txt", MRPC, Example(('He called him "the witness, again.', "He did so."), 1)),
        ("sst2.tsv", "sentence\tlabel\na fine film \t1\n", Example(("a fine film",), 1)),
        ("imdb.jsonl", '{"text": "Dull.\\n\\nVery.", "label": 0}\n', Example(("Dull.\n\nVery.",), 0)),
        ("qqp.jsonl", '{"question1": "A?", "question2": "B?", "label": "not duplicate"}', Example(("A?", "B?"), 0)),
        ("qqp.tsv", "question1\tquestion2\tis_duplicate\nA?\tB?\t1", Example(("A?", "B?"), 1)),
    ],
)
def test_each_format(tmp_path: Path, name: str, text: str, expected: Example) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_examples(tmp_path / name, 2) == [expected]
    (tmp_path / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    assert read_examples(tmp_path / f"{name}.xz", 2) == [expected]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.tsv", "", "no examples"),
        ("a.tsv", "sentence\tlabel\n", "no examples"),
        ("a.tsv", "sentence\tlabel\na\t1\t2\n", "line 2 has 3 columns"),
        ("a.tsv", "words\tlabel\na\t1\n", "expected a text"),
        ("a.tsv", "sentence\tlabel\na\t2\n", "'2': expected 0 to 1"),
        ("a.tsv", "sentence\tlabel\na\tgood\n", "'good'"),
        ("a.tsv", "sentence\tlabel\n \t1\n", "empty text"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{', "line 2 is not JSON"),
        ("a.jsonl", "[1]", "not a JSON object"),
        ("a.jsonl", '{"text": "a", "label": null}', "None"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError, match=said):
        read_examples(tmp_path / name, 2)


def test_the_training_cuts_a_prompt_as_a_device_does(tokenizer: Tokenizer) -> None:
    task, fields = TASKS["mrpc"], ("Grüße aus Wien", "second {} text")
    questions = read_questions(tokenizer, task, [Example(fields, 1)], 100)
    spans = PromptReader(tokenizer, None).task(task, [Message("user", field) for field in fields])
    assert [token for span in spans for token in span.token_ids] == questions.prompts[0].tolist()
    assert [span.private for span in spans for _ in span.token_ids] == questions.private[0].tolist()
    text = "".join(tokenizer.decode(list(span.token_ids)) for span in spans if span.private)
    assert text == "Grüße aus Wiensecond {} text"


def test_a_batch_is_right_aligned_with_its_right_label(tokenizer: Tokenizer) -> None:
    questions = read_questions(tokenizer, PAIR, [Example(("a", "bc"), 1), Example(("defghi", "j"), 0)], 3)
    batch = questions.batch([0, 1])
    assert batch.present.sum(axis=1).tolist() == [len(ids) for ids in questions.prompts]
    assert batch.private.sum(axis=1).tolist() == [3, 4]  # "defghi" is cut to "def"
    assert tokenizer.decode(batch.target[0][batch.scored[0]].tolist()) == " yes"
    assert tokenizer.decode(batch.target[1][batch.scored[1]].tolist()) == " no"
    assert batch.prompt[1, -1] == questions.prompts[1][-1]


def test_a_long_field_is_cut_at_a_token(tokenizer: Tokenizer) -> None:
    assert shorten(tokenizer, "abcdef", 3) == "abc"
    assert shorten(tokenizer, "abc", 3) == "abc"


def test_labels_that_are_one_to_the_tokenizer_are_refused() -> None:
    blind = Tokenizer.from_str(
        '{"version":"1.0","model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"},"added_tokens":[],'
        '"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,"truncation":null,"padding":null}'
    )
    with pytest.raises(InvalidValue, match="labels"):
        label_ids(blind, PAIR)


def test_a_task_by_name_or_by_what_it_is() -> None:
    assert choose("sst2", None, None) is not None
    assert choose("sst2", "{}!", ["a", "b", "c"]) == Task("sst2", "{}!", ("a", "b", "c"))
    assert choose("own", "{}?", ["a", "b"]).labels == ("a", "b")
    with pytest.raises(InvalidValue, match="--template"):
        choose("own", None, ["a", "b"])
