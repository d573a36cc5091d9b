"""A tiny model and a codec for it, made once a session: random weights, real formats, no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

# Before transformers is imported: tests need no network, and the hub's client would look for one.
os.environ["HF_HUB_OFFLINE"] = "1"
# Programs that come with development dependencies lie beside the interpreter, which need not be on the path.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])


@pytest.fixture(scope="session", autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads settings, or writes a ledger, in the folders of who runs it; processes inherit this."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))


TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama of two layers over bytes (259 ids), with tokenizer and chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, with heads as wide as vLLM's attention on a CPU needs them."""
    return write_tiny_model(tmp_path_factory.mktemp("wide-model"), head_dim=32)


def write_tiny_model(folder: Path, **shape: int) -> Path:
    """Write a tiny model's folder; `shape` goes to its configuration."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[2])
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained codec (d = 16, four soft tokens) for the tiny model."""
    import torch
    from transformers import AutoModelForCausalLM

    from del_codec.projection import Encoder, ProjectionConfig, build_decoder
    from del_codec.spec import CodecSpec, Measured
    from del_server.codec import input_embeddings, model_sha256, save_codec

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    embeddings = input_embeddings(model)
    torch.manual_seed(0)
    rms = float(embeddings.pow(2).mean().sqrt())
    config = ProjectionConfig(dim=16, embedding_width=32, embedding_rms=rms, width=32, layers=1, heads=2)
    with torch.inference_mode():
        latents = (Encoder(config)(embeddings) * 127).round().clamp(-127, 127).to(torch.int8).numpy()
    tokenizer = (tiny_model / "tokenizer.json").read_bytes()
    spec = CodecSpec(
        model="tiny",
        model_sha256=model_sha256(model),
        dim=16,
        vocabulary=len(embeddings),
        embedding_width=32,
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        chat_template_sha256=hashlib.sha256(TEMPLATE.encode()).hexdigest(),
        mu_milli_min=1_000,
        mu_milli_max=60_000,
        measured=(Measured(5_000, 1, 100, 100), Measured(10_000, 1, 240, 400), Measured(20_000, 1, 600, 700)),
    )
    folder = tmp_path_factory.mktemp("tiny-codec")
    save_codec(
        folder=folder,
        spec=spec,
        latents=latents,
        unigram_counts=np.arange(1, len(embeddings) + 1, dtype=np.uint32),
        config=config,
        decoder=build_decoder(config).state_dict(),
        soft_prompt=torch.randn(4, 32) * rms,
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    return folder


@pytest.fixture(scope="session")
def tasked_codec(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny codec with untrained tasks of five soft tokens: "mood", of one field, and "same", of two."""
    import torch

    from del_codec.task import Task
    from del_server.tasks import save_task

    folder = tmp_path_factory.mktemp("tasked") / "codec"
    shutil.copytree(tiny_codec, folder)
    torch.manual_seed(1)
    for task in (Task("mood", "Text: {}\nMood:", ("good", "bad")), Task("same", "1: {}\n2: {}\nSame: ", ("no", "yes"))):
        save_task(folder, task, torch.randn(5, 32), "tiny")
    return folder
