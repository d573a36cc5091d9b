"""Table files: safetensors with a spec in the header's metadata. An input is a file's bytes."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np

from del_codec.errors import ArtifactError
from del_codec.spec import CodecSpec, Measured
from del_codec.table import LatentTable

from ..target import Mutate, Target

_PREFIX = 8
_WORDS = (
    "__metadata__ spec latents unigram_counts dtype shape data_offsets I8 U32 F32 BF16 del-codec/1 dim vocabulary "
    "embedding_width model model_sha256 tokenizer_sha256 chat_template_sha256 mu_milli_min mu_milli_max measured "
    "mu_milli bits attack_success retained format NaN Infinity 1e400 -128 4294967296 18446744073709551615 \\ud800 "
    "\\u0000"
)


def check(data: bytes) -> None:
    try:
        table = LatentTable.from_bytes(data)
    except ArtifactError as error:
        str(error).encode()
        return
    spec = table.spec
    assert table.fingerprint == hashlib.sha256(data).hexdigest()
    assert table.latents.shape == (spec.vocabulary, spec.dim)
    assert table.latents.dtype == np.int8
    assert int(table.latents.min()) >= -127
    assert table.unigram_counts.shape == (spec.vocabulary,)
    assert 1 <= table.largest_latent <= 127
    assert abs(float(table.prior.sum()) - 1) < 1e-6
    assert float(table.prior.min()) > 0
    assert table.rows([0, spec.vocabulary - 1]).shape == (2, spec.dim)
    assert CodecSpec.from_json(spec.to_json()) == spec
    spec.model.encode()
    written = LatentTable.to_bytes(spec, table.latents, table.unigram_counts)
    if written == data:
        return  # what follows has been seen to hold
    again = LatentTable.from_bytes(written)
    assert again.spec == spec
    assert again.latents.tobytes() == table.latents.tobytes()
    assert again.unigram_counts.tobytes() == table.unigram_counts.tobytes()
    assert LatentTable.to_bytes(again.spec, again.latents, again.unigram_counts) == written


def seeds() -> list[bytes]:
    generator = np.random.default_rng(2)
    found = []
    for vocabulary, dim, measured in ((2, 1, 0), (3, 2, 1), (5, 4, 2)):
        rows = tuple(Measured(1000 * row + 1000, 1, 100, -20) for row in range(measured))
        spec = CodecSpec("m", "0" * 64, dim, vocabulary, 4, "1" * 64, "", 1000, 60_000, rows)
        latents = generator.integers(-127, 128, (vocabulary, dim)).astype(np.int8)
        found.append(LatentTable.to_bytes(spec, latents, np.arange(vocabulary, dtype=np.uint32)))
    return found


def mutate(data: bytes, change: Mutate, draw: random.Random) -> bytes:
    """The header alone, the spec in it alone or the tensors alone, with a length that is right."""
    length = int.from_bytes(data[:_PREFIX], "little")
    if len(data) < _PREFIX or length > len(data) - _PREFIX or draw.random() < 0.1:
        return change(data)
    header, body = data[_PREFIX : _PREFIX + length], data[_PREFIX + length :]
    where = draw.random()
    if where < 0.45:
        header = _with_other_spec(header, change)
    elif where < 0.75:
        header = change(header)
    else:
        body = change(body)[: len(body)].ljust(len(body), b"\0") if draw.random() < 0.8 else change(body)
    return len(header).to_bytes(_PREFIX, "little") + header + body


def _with_other_spec(header: bytes, change: Mutate) -> bytes:
    try:
        entries = json.loads(header)
        spec = change(entries["__metadata__"]["spec"].encode())
        entries["__metadata__"]["spec"] = spec.decode(errors="surrogateescape")
        return json.dumps(entries, separators=(",", ":")).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return change(header)


TARGET = Target(
    check,
    seeds,
    memory=lambda size: (1 << 18) + 64 * size,
    modules=("del_codec.table", "del_codec.spec"),
    most_bytes=2048,
    mutate=mutate,
    words=tuple(word.encode() for word in _WORDS.split()),
)
