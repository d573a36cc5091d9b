"""A tiny model and a codec for it: random weights, real formats, no network.

`python tests/tiny.py FOLDER` writes them to FOLDER/model and FOLDER/codec.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def write_tiny_codec(model_folder: Path, folder: Path) -> Path:
    """Write an untrained codec (d = 16, four soft tokens) for the tiny model of a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from del_codec.projection import Encoder, ProjectionConfig, build_decoder
    from del_codec.spec import CodecSpec, Measured
    from del_server.codec import input_embeddings, model_sha256, save_codec

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    embeddings = input_embeddings(model)
    torch.manual_seed(0)
    rms = float(embeddings.pow(2).mean().sqrt())
    config = ProjectionConfig(dim=16, embedding_width=32, embedding_rms=rms, width=32, layers=1, heads=2)
    with torch.inference_mode():
        latents = (Encoder(config)(embeddings) * 127).round().clamp(-127, 127).to(torch.int8).numpy()
    tokenizer = (model_folder / "tokenizer.json").read_bytes()
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


if __name__ == "__main__":
    root = Path(sys.argv[1])
    print(write_tiny_codec(write_tiny_model(root / "model"), root / "codec"))
