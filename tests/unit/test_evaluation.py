"""`del-server evaluate`: what is measured is what is deployed, and what is recorded is what a device reads."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from del_client.defaults import default_setting
from del_codec.attacks import map_guess
from del_codec.encode import encode
from del_codec.errors import ArtifactError, InvalidValue
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.spec import Measured
from del_codec.table import LatentTable
from del_server.codec import REFERENCES_FILE, ServedCodec
from del_server.commands import evaluate
from del_server.evaluation import Bounds, Evaluation, Row, Share, table, to_json
from del_server.training.text import Ids

PROMPT, CONTINUATION, COUNT = 12, 6, 40
ALMOST_NO_NOISE = 20_000.0


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def folder(tiny_codec: Path, model: Any, tmp_path: Path) -> Path:
    """The untrained codec with a floor and a ceiling; the ceiling's soft prompt is the codec's own."""
    copy = shutil.copytree(tiny_codec, tmp_path / "codec")
    ceiling = ServedCodec.load(copy, model).soft_prompt.clone()
    safetensors.torch.save_file({"floor": ceiling.flip(0) * 2, "ceiling": ceiling}, copy / REFERENCES_FILE)
    return copy


@pytest.fixture
def codec(folder: Path, model: Any) -> ServedCodec:
    return ServedCodec.load(folder, model)


@pytest.fixture
def evaluation(codec: ServedCodec, folder: Path, model: Any) -> Evaluation:
    return Evaluation(codec, folder, model)


@pytest.fixture(scope="module")
def stream() -> Ids:
    """Ids drawn by the tiny codec's counts, so that its commonest token is common here."""
    weights = np.arange(1.0, 260.0) ** 4
    return np.random.default_rng(0).choice(259, 40 * (PROMPT + CONTINUATION), p=weights / weights.sum())


def measure(evaluation: Evaluation, stream: Ids, mu: float, bits: int) -> tuple[Bounds, Row]:
    bounds, (row,) = evaluation.measure(
        "text", stream, mus=[mu], bits=[bits], prompt=PROMPT, continuation=CONTINUATION, count=COUNT
    )
    return bounds, row


def cut(stream: Ids) -> tuple[Tensor, Tensor]:
    """Prompts and continuations: the stream is just long enough for 40 windows."""
    windows = torch.from_numpy(stream).view(COUNT, PROMPT + CONTINUATION)
    return windows[:, :PROMPT], windows[:, PROMPT:]


@torch.no_grad()
def nll(model: Any, soft: Tensor | None, prompt: Tensor | None, target: Tensor) -> float:
    """Mean continuation NLL by hand, one window at a time."""
    embed = model.get_input_embeddings()
    losses = []
    for row in range(len(target)):
        parts = [part for part in (soft, None if prompt is None else embed(prompt[row])) if part is not None]
        before = sum(len(part) for part in parts)
        logits = model(inputs_embeds=torch.cat([*parts, embed(target[row])]).unsqueeze(0)).logits[0]
        losses.append(float(F.cross_entropy(logits[before - 1 : -1], target[row])))
    return float(np.mean(losses))


def test_floor_and_ceiling_are_those_of_the_soft_prompts_and_the_plain_model(
    evaluation: Evaluation, model: Any, stream: Ids
) -> None:
    bounds, _ = measure(evaluation, stream, 5, 1)
    prompt, target = cut(stream)
    plain, tuned = nll(model, None, prompt, target), nll(model, evaluation.ceiling, prompt, target)
    assert bounds.floor == pytest.approx(nll(model, evaluation.floor, None, target), rel=1e-4)
    assert bounds.plain == pytest.approx(plain, rel=1e-4)
    assert bounds.ceiling == pytest.approx(min(plain, tuned), rel=1e-4)


def test_retained_is_the_way_from_floor_to_ceiling(evaluation: Evaluation, model: Any, stream: Ids) -> None:
    # With almost no noise the untrained decoder gives back the very embeddings, so what x must be is known.
    bounds, row = measure(evaluation, stream, ALMOST_NO_NOISE, 8)
    prompt, target = cut(stream)
    x = nll(model, evaluation.codec.soft_prompt, prompt, target)
    assert row.nll.mean == pytest.approx(x, rel=1e-3)
    by_hand = (bounds.floor - x) / (bounds.floor - bounds.ceiling)
    assert row.retained.mean == pytest.approx(by_hand, abs=0.02)
    assert row.retained.error == pytest.approx(row.nll.error / abs(bounds.floor - bounds.ceiling), rel=1e-6)


def test_almost_no_noise_hides_nothing(evaluation: Evaluation, stream: Ids) -> None:
    _, row = measure(evaluation, stream, ALMOST_NO_NOISE, 8)
    assert row.map.mean > 0.99
    assert row.decoder.mean > 0.99
    assert row.attack_success == max(row.map.mean, row.decoder.mean)


def test_strong_noise_leaves_little_beyond_the_prior(evaluation: Evaluation, stream: Ids) -> None:
    _, strong = measure(evaluation, stream, 0.5, 1)
    _, weak = measure(evaluation, stream, 40, 1)
    assert strong.map.mean < 0.1 < weak.map.mean


def test_the_attacks_are_those_of_the_device_on_the_bytes_that_were_sent(
    evaluation: Evaluation, codec: ServedCodec, stream: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[PrivateSegment] = []

    def recorded(latents: LatentTable, ids: Ids, setting: NoiseSetting) -> PrivateSegment:
        sent.append(encode(latents, ids, setting))
        return sent[-1]

    monkeypatch.setattr("del_server.evaluation.encode", recorded)
    _, row = measure(evaluation, stream, 15, 2)
    truth = cut(stream)[0].numpy()
    assert len(sent) == COUNT
    dim, prior = codec.table.spec.dim, codec.table.prior
    guesses = np.stack([map_guess(codec.table, s.levels(dim), s.setting, prior)[0] for s in sent])
    shares = (guesses == truth).mean(axis=1)
    assert row.map.mean == pytest.approx(shares.mean(), abs=1e-6)
    assert row.map.error == pytest.approx(shares.std(ddof=1) / math.sqrt(COUNT), abs=1e-6)
    assert row.prior == pytest.approx((truth == 258).mean(), abs=1e-6)
    assert row.bytes_per_token == len(sent[0].payload) / PROMPT == 4
    # The nearest embedding, by angle, to what the model is given.
    weight = F.normalize(evaluation.judge.embeddings, dim=-1)
    decoded = torch.stack([codec.embed([segment])[codec.soft_tokens :] for segment in sent])
    nearest = (F.normalize(decoded, dim=-1) @ weight.T).argmax(dim=-1).numpy()
    assert row.decoder.mean == pytest.approx((nearest == truth).mean(), abs=1e-6)


def test_every_setting_gets_a_finite_row(evaluation: Evaluation, stream: Ids) -> None:
    _, rows = evaluation.measure(
        "text", stream, mus=[5, 20], bits=[1, 4, 8], prompt=PROMPT, continuation=CONTINUATION, count=8
    )
    assert [(row.mu, row.bits) for row in rows] == [(5, 1), (20, 1), (5, 4), (20, 4), (5, 8), (20, 8)]
    for row in rows:
        numbers = [row.prior, *(x for s in (row.nll, row.retained, row.map, row.decoder) for x in (s.mean, s.error))]
        assert np.isfinite(numbers).all()
        assert all(0 <= share <= 1 for share in (row.prior, row.map.mean, row.decoder.mean))


def test_a_share_is_a_mean_with_its_standard_error() -> None:
    share = Share.of([1.0, 2.0, 3.0, 6.0])
    assert share.mean == 3
    assert share.error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_a_codec_without_floor_and_ceiling_is_refused(folder: Path, codec: ServedCodec, model: Any) -> None:
    path = folder / REFERENCES_FILE
    safetensors.torch.save_file({"floor": torch.zeros(1, 32)}, path)
    with pytest.raises(ArtifactError, match="holds no floor and ceiling"):
        Evaluation(codec, folder, model)
    path.unlink()
    with pytest.raises(ArtifactError, match="holds no floor and ceiling"):
        Evaluation(codec, folder, model)


def row(text: str, mu: float, bits: int, attack: float, retained: float) -> Row:
    sure = Share(attack, 0.01)
    return Row(text, mu, bits, 2.0, Share(math.log(20), 0.1), Share(retained, 0.01), 0.05, sure, Share(0.0, 0.0))


def test_the_table_and_the_json_say_what_was_measured() -> None:
    rows = [row("wiki", 5, 1, 0.123, -0.25)]
    assert table(rows).splitlines()[-1] == (
        "| wiki | 5 | 1 | 2 | 20.0 | -0.25 ± 0.01 | 0.050 | 0.123 ± 0.010 | 0.000 ± 0.000 |"
    )
    written = json.loads(json.dumps(to_json({"wiki": Bounds(3, 2, 2.5)}, rows)))
    assert written["bounds"] == {"wiki": {"floor": 3, "ceiling": 2, "plain": 2.5}}
    assert written["rows"][0]["map"] == {"mean": 0.123, "error": 0.01}


def test_the_worst_of_all_texts_is_recorded_rounded_against_the_codec(folder: Path) -> None:
    path = folder / "device.safetensors"
    before = LatentTable.load(path)
    rows = [row("a", 10, 1, 0.2001, 0.6), row("b", 10, 1, 0.1, 0.5999), row("a", 5, 1, 0.0, -0.0301)]
    evaluate.record(folder, before, rows)
    after = LatentTable.load(path)
    # Always guessing the commonest token, which succeeds with 5 % here, counts as an attack.
    assert after.spec.measured == (Measured(5000, 1, 50, -31), Measured(10_000, 1, 201, 599))
    assert np.array_equal(after.latents, before.latents)
    assert np.array_equal(after.unigram_counts, before.unigram_counts)
    assert after.fingerprint != before.fingerprint


def test_rows_that_no_device_would_read_are_not_recorded(folder: Path) -> None:
    path = folder / "device.safetensors"
    before = path.read_bytes()
    for bad in (row("a", 2e4, 1, 0.1, 0.5), row("a", 1e-4, 1, 0.1, 0.5)):
        with pytest.raises(InvalidValue, match=r"measured\.mu_milli"):
            evaluate.record(folder, LatentTable.load(path), [bad])
    assert path.read_bytes() == before


def run(model: Path, codec: Path, texts: list[Path], *arguments: object) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    small = ["--prompt", PROMPT, "--continuation", CONTINUATION, "--count", 8]
    words = ["--model", model, "--codec", codec, "--text", *texts, *small, *arguments]
    evaluate.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The rain in Spain stays mainly in the plain. " * 20)
    return path


def test_the_command_prints_writes_and_records_what_a_device_reads(
    tiny_model: Path, folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("It is a truth universally acknowledged. " * 20)
    results = tmp_path / "results.json"
    run(tiny_model, folder, [text, other], "--mu", 3, 8, "--bits", 1, "--json", results, "--record")
    written = json.loads(results.read_text())
    printed = capsys.readouterr().out
    names = [f"{path.parent.name}/{path.name}" for path in (text, other)]
    assert list(written["bounds"]) == names
    for name in names:
        found = re.search(rf"^{re.escape(name)}: floor PPL ([0-9.]+), ceiling ([0-9.]+)", printed, re.MULTILINE)
        assert found
        assert float(found[1]) == pytest.approx(math.exp(written["bounds"][name]["floor"]), rel=0.01)
    assert len(re.findall(r"^\| [^ ]+\.txt \|", printed, re.MULTILINE)) == len(written["rows"]) == 4

    spec = LatentTable.load(folder / "device.safetensors").spec
    assert [(m.mu_milli, m.bits) for m in spec.measured] == [(3000, 1), (8000, 1)]
    for measured in spec.measured:
        here = [r for r in written["rows"] if 1000 * r["mu"] == measured.mu_milli]
        worst = max(max(r["prior"], r["map"]["mean"], r["decoder"]["mean"]) for r in here)
        assert measured.attack_success == math.ceil(1000 * worst)
        assert measured.retained == math.floor(1000 * min(r["retained"]["mean"] for r in here))
    allowed = [m.mu_milli for m in spec.measured if m.attack_success <= 250]
    assert default_setting(spec) == NoiseSetting.from_mu(max(allowed, default=1000) / 1000, 16, 1)


def test_without_record_the_codec_is_left_as_it_was(tiny_model: Path, folder: Path, text: Path) -> None:
    before = (folder / "device.safetensors").read_bytes()
    run(tiny_model, folder, [text], "--mu", 3)
    assert (folder / "device.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--count", 0], "count is 0"),
        (["--prompt", 0], "prompt is 0"),
        (["--continuation", -1], "continuation is -1"),
        (["--prompt", 5000], "give at least 5006 tokens of text"),
        (["--mu", 0], "mu is 0.0"),
        (["--mu", "nan"], "mu is nan"),
        (["--bits", 9], "bits is 9"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    tiny_model: Path, folder: Path, text: Path, arguments: list[object], named: str
) -> None:
    with pytest.raises(InvalidValue, match=named):
        run(tiny_model, folder, [text], *arguments)


def test_a_codec_that_is_not_there_is_named(tiny_model: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere.* can't be read"):
        run(tiny_model, tmp_path / "nowhere", [text])
