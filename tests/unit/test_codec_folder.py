"""A codec's folder is read whole or refused with a reason, and serves every setting."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from del_codec.encode import encode
from del_codec.errors import ArtifactError, FrameError, InvalidValue, MismatchError
from del_codec.frame import PrivateSegment, PublicSegment
from del_codec.noise import NoiseSetting
from del_codec.projection import ProjectionConfig
from del_codec.table import LatentTable
from del_server.codec import DECODER_FILE, ServedCodec, read_decoder


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def folder(tiny_codec: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_codec, tmp_path / "codec")


@pytest.mark.parametrize("bits", range(1, 9))
def test_one_table_serves_every_setting_and_mixes_segments(tiny_codec: Path, model: Any, bits: int) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    private = encode(codec.table, [5, 6, 7, 258], NoiseSetting.from_mu(20, 16, bits))
    other = encode(codec.table, [9], NoiseSetting.from_mu(3, 16, 1))
    embedded = codec.embed([PublicSegment((1, 2)), private, other, PublicSegment((3,))])
    assert embedded.shape == (codec.soft_tokens + 8, 32)
    assert embedded.isfinite().all()
    weight = model.get_input_embeddings().weight
    assert torch.equal(embedded[codec.soft_tokens : codec.soft_tokens + 2], weight[[1, 2]])
    assert torch.equal(embedded[-1], weight[3])


def test_public_prompt_meets_the_plain_model(tiny_codec: Path, model: Any) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    assert torch.equal(codec.embed([PublicSegment((4, 5))]), model.get_input_embeddings().weight[[4, 5]])


def test_almost_no_noise_gives_back_the_token(tiny_codec: Path, model: Any) -> None:
    # The untrained decoder is the posterior mean, and at 8 bits and weak noise the posterior is one token.
    codec = ServedCodec.load(tiny_codec, model)
    ids = list(range(3, 40))
    private = encode(codec.table, ids, NoiseSetting.from_mu(5000, 16, 8))
    decoded = codec.embed([private])[codec.soft_tokens :]
    assert torch.allclose(decoded, model.get_input_embeddings().weight[ids], atol=1e-3)


def test_peft_reads_the_soft_prompt(tiny_codec: Path, model: Any) -> None:
    from peft import PeftModel

    adapter = PeftModel.from_pretrained(model, str(tiny_codec / "soft_prompt"))
    codec = ServedCodec.load(tiny_codec, model)
    assert torch.equal(adapter.get_prompt(1)[0], codec.soft_prompt)


def test_codec_of_another_model_is_refused(tiny_codec: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    with pytest.raises(MismatchError, match="train one"):
        ServedCodec.load(tiny_codec, other)


def test_model_hash_is_the_same_in_bfloat16(tiny_codec: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert ServedCodec.load(tiny_codec, model).soft_prompt.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["device.safetensors", "decoder.safetensors", "config.json", "soft_prompt/adapter_model.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_damaged_file_is_named(folder: Path, model: Any, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"\xff" * len(data))
    with pytest.raises(ArtifactError):
        ServedCodec.load(folder, model)


def test_pickled_adapter_is_refused(folder: Path, model: Any) -> None:
    (folder / "soft_prompt/adapter_model.safetensors").rename(folder / "soft_prompt/adapter_model.bin")
    with pytest.raises(ArtifactError, match="only safetensors"):
        ServedCodec.load(folder, model)


def test_adapter_of_another_kind_is_refused(folder: Path, model: Any) -> None:
    path = folder / "soft_prompt/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "LORA"}))
    with pytest.raises(ArtifactError, match="LORA"):
        ServedCodec.load(folder, model)


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 8), ("embedding_width", 16), ("dim", 1 << 40), ("dim", "16"), ("width", 1e9)]
)
def test_a_decoder_for_another_shape_is_refused(folder: Path, model: Any, field: str, value: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["projection"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"contradicts itself|not a codec's configuration"):
        ServedCodec.load(folder, model)


def test_a_table_of_another_vocabulary_is_refused(folder: Path, model: Any) -> None:
    path = folder / "device.safetensors"
    table = LatentTable.load(path)
    spec = dataclasses.replace(table.spec, vocabulary=100)
    path.write_bytes(LatentTable.to_bytes(spec, table.latents[:100], table.unigram_counts[:100]))
    with pytest.raises(ArtifactError, match="contradicts itself"):
        ServedCodec.load(folder, model)


def test_bad_segments_are_refused(tiny_codec: Path, model: Any) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    setting = NoiseSetting.from_mu(5, 16, 1)
    with pytest.raises(FrameError, match="2 bytes"):
        codec.embed([PrivateSegment(setting, 1, b"\0")])
    with pytest.raises(InvalidValue, match="token_ids is 259"):
        codec.embed([PublicSegment((259,))])
    with pytest.raises(InvalidValue, match="segments"):
        codec.embed([])


def test_prompts_are_decoded_together_as_they_are_alone(tiny_codec: Path, model: Any) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    weak, strong = NoiseSetting.from_mu(20, 16, 1), NoiseSetting.from_mu(3, 16, 4)
    prompts = [
        [PublicSegment((1, 2)), encode(codec.table, [5, 6, 7], weak), PublicSegment((3,))],
        [encode(codec.table, [9] * 12, strong), encode(codec.table, [5], weak)],
        [PublicSegment((4,))],
    ]
    together, present = codec.decoder.batch(prompts)
    assert present.sum(dim=1).tolist() == [6, 13, 1]
    for row, there, prompt in zip(together, present, prompts, strict=True):
        assert torch.allclose(row[there], codec.decoder(prompt), atol=1e-6)
        assert not row[~there].any()


def test_a_codec_has_the_tasks_of_its_folder(tasked_codec: Path, model: Any) -> None:
    codec = ServedCodec.load(tasked_codec, model)
    assert list(codec.tasks) == ["mood", "same"]
    assert (codec.soft_tokens, codec.longest_soft_tokens) == (4, 5)
    private = encode(codec.table, [5], NoiseSetting.from_mu(20, 16, 1))
    own, mood = codec.embed([private]), codec.embed([private], "mood")
    assert torch.equal(mood[:5], codec.tasks["mood"].soft_prompt)
    assert torch.equal(own[4:], mood[5:])
    assert torch.equal(codec.embed([PublicSegment((4,))], "mood"), codec.embed([PublicSegment((4,))]))


@pytest.mark.parametrize("text", [None, "{", '{"template": "no field", "labels": ["a", "b"]}', b"\xff"])
def test_a_damaged_task_is_named(tasked_codec: Path, tmp_path: Path, model: Any, text: str | bytes | None) -> None:
    folder = Path(shutil.copytree(tasked_codec, tmp_path / "codec"))
    path = folder / "tasks" / "same" / "task.json"
    if text is None:
        (path.parent / "adapter_model.safetensors").unlink()
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ArtifactError, match="same"):
        ServedCodec.load(folder, model)


def test_a_decoder_larger_than_its_file_is_refused_before_it_takes_memory(folder: Path) -> None:
    config = ProjectionConfig(dim=16, embedding_width=32, embedding_rms=1.0, width=1 << 13, layers=1, heads=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="does not hold the decoder"):
        read_decoder(config, folder / DECODER_FILE)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 1 << 29  # its weights: 2 GB
