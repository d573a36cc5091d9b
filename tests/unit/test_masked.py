"""Input inference with a masked language model meets the served model's tokens as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from del_codec.errors import ArtifactError
from del_server.evaluation.masked import MaskedLanguageModel

WORDS = ["a", "b", "rain", "[CLS]", "[SEP]"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose answer to every gap is "rain"."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    where = tmp_path_factory.mktemp("masked")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(where)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        model.cls.predictions.bias[vocabulary["rain"]] = 100.0
    model.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_gap_stands_between_spaces_in_the_text_of_the_others(folder: Path, tokenizer: Any) -> None:
    ids = tokenizer("abc").input_ids
    assert MaskedLanguageModel(str(folder), tokenizer, CPU)._gaps(ids) == [" [MASK] bc", "a [MASK] c", "ab [MASK] "]


def test_a_guess_is_the_first_token_of_the_word_with_a_space_before(folder: Path, tokenizer: Any) -> None:
    read = torch.tensor([tokenizer("a b a").input_ids, tokenizer("b a b").input_ids])
    guess = MaskedLanguageModel(str(folder), tokenizer, CPU).guess(read)
    # The tiny tokenizer is one of bytes, so the first token of " rain" is the space.
    assert torch.equal(guess, torch.full_like(read, tokenizer(" ").input_ids[0]))


def test_what_is_no_masked_language_model_is_refused(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    for where in (tiny_model, tmp_path):
        with pytest.raises(ArtifactError, match="can't be loaded"):
            MaskedLanguageModel(str(where), tokenizer, CPU)
