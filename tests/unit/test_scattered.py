"""Prompts sent at two noises: the channel says what each token's own channel says, and the benchmark measures it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from benchmarks import scattered
from del_codec.errors import InvalidValue
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_server.codec import REFERENCES_FILE, ServedCodec
from del_server.evaluation.channel import BinomialChannel
from del_server.evaluation.scattered import Choice, ScatteredChannel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


def channel(codec: Path, share: float, choice: Choice = "random") -> ScatteredChannel:
    table = LatentTable.load(codec / "device.safetensors")
    strong, weak = (BinomialChannel(table, NoiseSetting.from_mu(mu, table.spec.dim, 1), CPU) for mu in (2.0, 30.0))
    return ScatteredChannel(strong, weak, share, choice)


def test_each_token_is_read_by_its_own_channel(tiny_codec: Path) -> None:
    both = channel(tiny_codec, 0.5)
    ids = np.arange(200).reshape(1, 200)
    observed = both.observe(ids)
    levels, weak = both.parts(observed)
    assert 60 < int(weak.sum()) < 140
    read = both.log_likelihood(observed[0])
    for flag, own in ((True, both.weak), (False, both.strong)):
        here = weak[0] == flag
        torch.testing.assert_close(read[here], own.log_likelihood(levels[0][here]))
        torch.testing.assert_close(both.latents(observed)[0][here], own.latents(levels[0][here]))
        torch.testing.assert_close(both.noise(observed)[0][here], own.noise(levels[0][here]))


def test_weakly_noised_tokens_are_the_ones_that_can_be_read(tiny_codec: Path) -> None:
    both = channel(tiny_codec, 0.5)
    ids = torch.arange(250).repeat(8, 1)
    observed = both.rehearse(ids)
    _, weak = both.parts(observed)
    right = both.log_likelihood(observed.flatten(0, 1)).argmax(dim=1).view_as(ids) == ids
    assert right[weak].float().mean() > 2 * right[~weak].float().mean()


def test_rare_takes_the_tokens_that_are_counted_least(tiny_codec: Path) -> None:
    both = channel(tiny_codec, 0.25, "rare")
    counts = torch.from_numpy(both.weak.table.unigram_counts.astype(np.int64))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 250, (4, 40)))
    chosen = both.chosen(ids)
    assert chosen.sum(dim=1).tolist() == [10] * 4
    for row, taken in zip(ids, chosen, strict=True):
        assert counts[row[taken]].max() <= counts[row[~taken]].min()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_no_share_is_outside_of_0_to_1(tiny_codec: Path, share: float) -> None:
    with pytest.raises(InvalidValue, match="share"):
        channel(tiny_codec, share)


def test_the_decoder_decodes_each_position_at_its_setting(tiny_codec: Path, model: Any) -> None:
    codec = ServedCodec.load(tiny_codec, model)
    settings = [NoiseSetting.from_mu(mu, codec.table.spec.dim, 1) for mu in (2.0, 30.0)]
    ids = np.arange(24).reshape(2, 12)
    levels = BinomialChannel(codec.table, settings[0], CPU).draw(ids)
    for index, setting in enumerate(settings):
        alone = codec.decoder.windows(levels, setting)
        torch.testing.assert_close(codec.decoder.mixed(levels, settings, np.full(ids.shape, index)), alone)
    mixed = codec.decoder.mixed(levels, settings, np.arange(24).reshape(2, 12) % 2)
    assert not torch.allclose(mixed, codec.decoder.windows(levels, settings[0]))
    assert not torch.allclose(mixed, codec.decoder.windows(levels, settings[1]))


def test_the_benchmark_measures_every_share_on_every_text(tiny_codec: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_codec, tmp_path / "codec")
    from transformers import AutoModelForCausalLM

    soft = ServedCodec.load(folder, AutoModelForCausalLM.from_pretrained(tiny_model)).soft_prompt.clone()
    safetensors.torch.save_file({"floor": soft.flip(0), "ceiling": soft}, folder / REFERENCES_FILE)
    (tmp_path / "a.txt").write_text("abcdefghij" * 40)
    words = ["--codec", str(folder), "--model", str(tiny_model), "--text", str(tmp_path / "a.txt"), "--count", "3"]
    words += ["--attack-text", str(tmp_path / "a.txt"), "--attack-steps", "2", "--attack-batch", "2", "--beam", "2"]
    words += ["--prompt", "12", "--continuation", "6", "--share", "0", "1"]
    assert scattered.main([*words, "--choice", "random", "--json", str(tmp_path / "out.json")]) == 0
    none, every = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert set(none["attacks"]) == {"prior", "map", "beam", "inversion", "combined"}
    assert (none["share"], every["share"]) == (0, 1)
    for row in (none, every):
        assert row["attacks"][row["strongest"]]["mean"] == max(found["mean"] for found in row["attacks"].values())
