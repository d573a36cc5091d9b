"""The files of a codec's folder beside its table: config.json, the decoder's weights, a soft prompt with its PEFT
configuration, a task, a tokenizer, a chat template. The first byte says which follows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from del_client.chat_template import ChatTemplate
from del_client.pinned import load_reader
from del_codec.errors import ArtifactError, InvalidValue, MismatchError
from del_codec.projection import ProjectionConfig, build_decoder
from del_codec.shipped import codec_folders
from del_codec.spec import CodecSpec
from del_server.codec import read_config, read_decoder
from del_server.soft_prompt import read_soft_prompt
from del_server.tasks import TASK_FILE, read_task

from ..place import file_of
from ..target import Mutate, Target
from ..values import other_json

_CONFIG = ProjectionConfig(dim=2, embedding_width=3, embedding_rms=0.5, width=4, layers=1, heads=1)
_WIDTH = 3
_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def check(data: bytes) -> None:
    kind = _KINDS.get(data[:1])
    if kind is not None:
        kind(data[1:])


def _config(data: bytes) -> None:
    try:
        config = read_config(file_of("config.json", data))
    except ArtifactError:
        return
    again = json.dumps({"projection": asdict(config)}).encode()
    assert read_config(file_of("config.json", again)) == config


def _decoder(data: bytes) -> None:
    try:
        network = read_decoder(_CONFIG, file_of("decoder.safetensors", data))
    except ArtifactError:
        return
    assert all(part.device.type == "cpu" and part.dtype == torch.float32 for part in network.parameters())


def _soft_prompt(data: bytes) -> None:
    file_of("adapter_config.json", b'{"peft_type": "PROMPT_TUNING"}')
    _read_soft_prompt(file_of("adapter_model.safetensors", data))


def _adapter_config(data: bytes) -> None:
    file_of("adapter_config.json", data)
    _read_soft_prompt(file_of("adapter_model.safetensors", _soft()))


def _read_soft_prompt(weights: Path) -> None:
    try:
        soft = read_soft_prompt(weights.parent, _WIDTH)
    except ArtifactError:
        return
    assert soft.shape[1] == _WIDTH
    assert soft.isfinite().all()


def _task(data: bytes) -> None:
    try:
        task = read_task(file_of(TASK_FILE, data).parent)
    except ArtifactError:
        return
    text, ranges = task.fill(["x"] * task.fields)
    assert [text[start:end] for start, end in ranges] == ["x"] * task.fields
    assert all(task.continuation(label) for label in task.labels)


def _tokenizer(data: bytes) -> None:
    """As if a codec were made for these very bytes, so that they get past the check of their hash."""
    try:
        load_reader(_spec(data), file_of("tokenizer.json", data))
    except (ArtifactError, MismatchError):
        return


def _template(data: bytes) -> None:
    try:
        ChatTemplate(data.decode()).render(_MESSAGES)
    except (ArtifactError, MismatchError, InvalidValue, UnicodeDecodeError):
        return


def _spec(tokenizer: bytes) -> CodecSpec:
    return CodecSpec("m", "0" * 64, 2, 4, 3, hashlib.sha256(tokenizer).hexdigest(), "", 1000, 60_000)


_KINDS: dict[bytes, Callable[[bytes], None]] = {
    b"c": _config,
    b"d": _decoder,
    b"s": _soft_prompt,
    b"a": _adapter_config,
    b"k": _task,
    b"t": _tokenizer,
    b"m": _template,
}


@functools.cache
def _soft() -> bytes:
    return safetensors.torch.save({"prompt_embeddings": torch.ones(2, _WIDTH, dtype=torch.float16)})


def seeds() -> list[bytes]:
    weights = {name: part.half() for name, part in build_decoder(_CONFIG).state_dict().items()}
    task = {"template": "{} So: {} True?", "labels": ["yes", "no"]}
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, "[UNK]")).to_str()
    template = next(iter(codec_folders())) / "chat_template.jinja"
    return [
        b"c" + json.dumps({"projection": asdict(_CONFIG)}).encode(),
        b"d" + safetensors.torch.save(weights),
        b"s" + _soft(),
        b'a{"peft_type": "PROMPT_TUNING"}',
        b"k" + json.dumps(task).encode(),
        b"t" + tokenizer.encode(),
        b"m" + template.read_bytes(),
        b"m{% for m in messages %}{{ m.role }}: {{ m['content'] | tojson }}\n{% endfor %}",
    ]


def mutate(data: bytes, change: Mutate, draw: random.Random) -> bytes:
    """The kind stays; of JSON some value is replaced by an odd one, every third time."""
    if data[:1] in (b"c", b"a", b"k", b"t") and draw.random() < 0.3:
        return data[:1] + other_json(data[1:], draw)
    return data[:1] + change(data[1:])


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (8 << 20) + 2048 * size,
    modules=(
        *("del_server.codec", "del_server.soft_prompt", "del_server.tasks"),
        *("del_codec.projection", "del_codec.task", "del_client.pinned", "del_client.chat_template"),
    ),
    most_bytes=8192,
    mutate=mutate,
)
