"""Table files that a hostile or broken server might hand to a device: each is refused with a reason, cheaply.

A table file is safetensors: eight bytes of little-endian header length, a JSON header, then the tensors' bytes.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from del_codec.errors import ArtifactError
from del_codec.spec import CodecSpec
from del_codec.table import MAX_TABLE_BYTES, LatentTable

VOCABULARY, DIM = 3, 2
SPEC = CodecSpec(
    model="none",
    model_sha256="0" * 64,
    dim=DIM,
    vocabulary=VOCABULARY,
    embedding_width=4,
    tokenizer_sha256="0" * 64,
    chat_template_sha256="",
    mu_milli_min=1000,
    mu_milli_max=60_000,
).to_json()
COUNTS = np.array([5, 0, 1], dtype="<u4").tobytes()
LATENTS = np.array([[-127, 127], [0, 1], [64, -1]], dtype=np.int8).tobytes()


def table_file(header: Any, body: bytes = COUNTS + LATENTS) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def header(**changes: Any) -> dict[str, Any]:
    """A sound header; a change of None takes the entry out."""
    entries: dict[str, Any] = {
        "__metadata__": {"spec": SPEC},
        "unigram_counts": {"dtype": "U32", "shape": [VOCABULARY], "data_offsets": [0, 12]},
        "latents": {"dtype": "I8", "shape": [VOCABULARY, DIM], "data_offsets": [12, 18]},
        **changes,
    }
    return {name: entry for name, entry in entries.items() if entry is not None}


def latents_as(dtype: str, shape: list[int], size: int) -> bytes:
    """A file whose latents have this type and shape, in `size` bytes."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [12, 12 + size]}
    return table_file(header(latents=entry), COUNTS + bytes(size))


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What runs inside allocates no more than `size` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size
    finally:
        tracemalloc.stop()


SOUND = table_file(header())


def test_the_file_that_all_attacks_start_from_is_sound() -> None:
    table = LatentTable.from_bytes(SOUND)
    assert (table.latents.tobytes(), table.unigram_counts.tobytes()) == (LATENTS, COUNTS)


@pytest.mark.parametrize("length", [0, 1, len(SOUND) - 7, len(SOUND), (1 << 20) + 1, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_a_header_length_that_can_not_be_is_refused(length: int) -> None:
    with at_most(1 << 16), pytest.raises(ArtifactError, match=f"header claims {length} bytes"):
        LatentTable.from_bytes(length.to_bytes(8, "little") + SOUND[8:])


def test_a_header_over_its_limit_is_refused_even_if_the_file_holds_it() -> None:
    big = table_file(json.dumps(header()).encode() + b" " * (1 << 20))
    with pytest.raises(ArtifactError, match="header claims"):
        LatentTable.from_bytes(big)


def test_a_file_cut_anywhere_is_refused() -> None:
    for length in range(len(SOUND)):
        with pytest.raises(ArtifactError):
            LatentTable.from_bytes(SOUND[:length])


def test_a_file_with_bytes_to_spare_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not valid safetensors"):
        LatentTable.from_bytes(SOUND + b"\0")


def test_a_damaged_byte_is_refused_or_changes_the_fingerprint() -> None:
    sound = LatentTable.from_bytes(SOUND)
    for place in range(len(SOUND)):
        for flip in (0x01, 0x80):
            damaged = bytearray(SOUND)
            damaged[place] ^= flip
            try:
                table = LatentTable.from_bytes(bytes(damaged))
            except ArtifactError:
                continue
            assert table.fingerprint != sound.fingerprint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"{}", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"17", id="number"),
        pytest.param(b"{'a': 1}", id="no-json"),
        pytest.param(b"\xff\xfe{}", id="no-utf8"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b'{"__metadata__":' * 20_000, id="nested-objects"),
        pytest.param(json.dumps(header(__metadata__=None)).encode(), id="no-metadata"),
    ],
)
def test_a_header_that_is_no_table_is_refused(text: bytes) -> None:
    with pytest.raises(ArtifactError, match="no readable spec"):
        LatentTable.from_bytes(table_file(text))


@pytest.mark.parametrize("metadata", [[], "spec", {}, {"spec": None}, {"spec": 5}, {"spec": {}}])
def test_metadata_without_a_spec_is_refused(metadata: Any) -> None:
    with pytest.raises(ArtifactError, match="no readable spec"):
        LatentTable.from_bytes(table_file(header(__metadata__=metadata)))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("{}", "expected del-codec/1"),
        (SPEC.replace('"dim":2', '"dim":0'), "dim is 0"),
        (SPEC.replace('"dim":2', '"dim":1e9'), "dim is 1000000000.0"),
        (SPEC.replace('"dim":2', '"dim":NaN'), "dim is nan"),
        (SPEC.replace('"vocabulary":3', '"vocabulary":-3'), "vocabulary is -3"),
        (SPEC.replace("}", ',"more":1}'), "must have the keys"),
    ],
)
def test_a_spec_that_is_not_valid_is_refused(spec: str, reason: str) -> None:
    assert spec != SPEC
    with pytest.raises(ArtifactError, match=reason):
        LatentTable.from_bytes(table_file(header(__metadata__={"spec": spec})))


WIDTHS = {
    **dict.fromkeys(["U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 1),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 2),
    **dict.fromkeys(["I32", "U32", "F32"], 4),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 8),
}


@pytest.mark.parametrize("dtype", [*WIDTHS, "F4", "F128", "I8 ", "i8", "O", ""])
def test_latents_of_another_type_are_refused(dtype: str) -> None:
    with pytest.raises(ArtifactError):
        LatentTable.from_bytes(latents_as(dtype, [VOCABULARY, DIM], VOCABULARY * DIM * WIDTHS.get(dtype, 1)))


@pytest.mark.parametrize("shape", [[DIM, VOCABULARY], [6], [3, 2, 1], [1, 6], [0, 2], [4, 2], []])
def test_latents_of_another_shape_are_refused(shape: list[int]) -> None:
    size = int(np.prod(shape, dtype=int))
    with pytest.raises(ArtifactError, match=r"latents is int8 .*: expected int8 \[3, 2\]"):
        LatentTable.from_bytes(latents_as("I8", shape, size))


@pytest.mark.parametrize("entry", [{"dtype": "I32", "shape": [3], "data_offsets": [0, 12]}, None])
def test_counts_of_another_type_or_none_are_refused(entry: Any) -> None:
    changed = header(unigram_counts=entry)
    if entry is None:
        changed["latents"]["data_offsets"] = [0, 6]
    body = LATENTS if entry is None else COUNTS + LATENTS
    with pytest.raises(ArtifactError, match="unigram_counts is"):
        LatentTable.from_bytes(table_file(changed, body))


@pytest.mark.parametrize("size", [0, 4])
def test_a_tensor_too_many_is_refused(size: int) -> None:
    extra = {"dtype": "U8", "shape": [size], "data_offsets": [18, 18 + size]}
    with pytest.raises(ArtifactError, match=r"holds \['extra', 'latents', 'unigram_counts'\]"):
        LatentTable.from_bytes(table_file(header(extra=extra), COUNTS + LATENTS + bytes(size)))


def test_the_latent_outside_of_the_box_is_refused() -> None:
    # -128 lies beyond the interval that the certificate is computed for.
    with pytest.raises(ArtifactError, match="latent -128"):
        LatentTable.from_bytes(table_file(header(), COUNTS + b"\x80" + LATENTS[1:]))


def test_counts_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ArtifactError, match="all zero"):
        LatentTable.from_bytes(table_file(header(), bytes(len(COUNTS)) + LATENTS))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "I8", "shape": [1 << 20, 1 << 10], "data_offsets": [12, 12 + (1 << 30)]},
        {"dtype": "I8", "shape": [1 << 40, 1 << 40], "data_offsets": [12, 18]},
        {"dtype": "I8", "shape": [1 << 62, 4], "data_offsets": [12, 12]},
        {"dtype": "I8", "shape": [3, 2], "data_offsets": [12, 1 << 62]},
        {"dtype": "I8", "shape": [3, 2], "data_offsets": [18, 12]},
        {"dtype": "I8", "shape": [3, 2], "data_offsets": [0, 6]},
        {"dtype": "I8", "shape": [-3, -2], "data_offsets": [12, 18]},
        {"dtype": "I8", "shape": [1 << 70, 2], "data_offsets": [12, 18]},
        {"dtype": "I8", "shape": "3x2", "data_offsets": [12, 18]},
        {"dtype": "I8", "shape": [3, 2]},
    ],
)
def test_a_tensor_that_claims_what_the_file_does_not_hold_is_refused_without_allocating(entry: Any) -> None:
    data = table_file(header(latents=entry))
    with at_most(1 << 18), pytest.raises(ArtifactError, match="not valid safetensors"):
        LatentTable.from_bytes(data)


def test_a_spec_that_claims_what_the_file_does_not_hold_is_refused_without_allocating() -> None:
    spec = SPEC.replace('"vocabulary":3', f'"vocabulary":{1 << 20}').replace('"dim":2', '"dim":1024')
    data = table_file(header(__metadata__={"spec": spec}))
    with at_most(1 << 18), pytest.raises(ArtifactError, match=r"latents is int8 \[3, 2\]: expected int8 \[1048576"):
        LatentTable.from_bytes(data)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "device.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_TABLE_BYTES + 1)
    with at_most(1 << 18), pytest.raises(ArtifactError, match=f"at most {MAX_TABLE_BYTES}"):
        LatentTable.load(path)


@pytest.mark.parametrize("damage", ["missing", "folder", "empty"])
def test_a_path_that_is_no_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "device.safetensors"
    if damage == "folder":
        path.mkdir()
    elif damage == "empty":
        path.touch()
    with pytest.raises(ArtifactError, match=r"can't be read|table file has 0 bytes"):
        LatentTable.load(path)
