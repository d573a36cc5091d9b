"""`del-server evaluate`: what is measured is what is deployed, and what is recorded is what a device reads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import shutil
from dataclasses import astuple
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
from del_server import lora
from del_server.codec import LORA_FOLDER, REFERENCES_FILE, REFERENCES_FOLDER, ServedCodec
from del_server.commands import evaluate
from del_server.evaluation.attacks import ATTACKS
from del_server.evaluation.estimate import Estimate
from del_server.evaluation.leakage import Leakage
from del_server.evaluation.report import measured as worst
from del_server.evaluation.report import readings, table, to_json
from del_server.evaluation.study import Row, Study, TextResult, Windows
from del_server.training.text import Ids

PROMPT, CONTINUATION, COUNT = 12, 6, 40
START = np.array([0])
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
def study(folder: Path, model: Any) -> Study:
    return Study(model, [folder], START, width=4)


@pytest.fixture(scope="module")
def stream() -> Ids:
    """Ids drawn by the tiny codec's counts, so that its commonest token is common here."""
    weights = np.arange(1.0, 260.0) ** 4
    return np.random.default_rng(0).choice(259, 40 * (PROMPT + CONTINUATION), p=weights / weights.sum())


def cut(stream: Ids) -> tuple[Tensor, Tensor]:
    """Prompts and continuations: the stream is just long enough for 40 windows."""
    windows = torch.from_numpy(stream).view(COUNT, PROMPT + CONTINUATION)
    return windows[:, :PROMPT], windows[:, PROMPT:]


def measure(
    study: Study, stream: Ids, mus: list[float], bits: list[int], attacks: tuple[str, ...] = ("prior", "nn", "map")
) -> TextResult:
    text = Windows.of("text", stream, count=COUNT, prompt=PROMPT, continuation=CONTINUATION)
    return study.measure(text, study.settings(mus, bits), attacks)


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
    study: Study, folder: Path, model: Any, stream: Ids
) -> None:
    found = measure(study, stream, [5], [1]).perplexities
    prompt, target = cut(stream)
    soft = safetensors.torch.load_file(folder / REFERENCES_FILE)
    plain, tuned = nll(model, None, prompt, target), nll(model, soft["ceiling"], prompt, target)
    assert math.log(found["floor"]) == pytest.approx(nll(model, soft["floor"], None, target), rel=1e-4)
    assert math.log(found["plain"]) == pytest.approx(plain, rel=1e-4)
    # The codec's own soft prompt is the ceiling's here, so what it makes of a prompt without noise comes close to it.
    assert math.log(found["ceiling"]) == pytest.approx(min(plain, tuned), rel=2e-3)


def test_retained_is_the_way_from_floor_to_ceiling(study: Study, codec: ServedCodec, model: Any, stream: Ids) -> None:
    # With almost no noise the untrained decoder gives back the very embeddings, so what x must be is known.
    result = measure(study, stream, [ALMOST_NO_NOISE], [8])
    prompt, target = cut(stream)
    x = nll(model, codec.soft_prompt, prompt, target)
    (row,) = result.rows
    assert row.nll.mean == pytest.approx(x, rel=1e-3)
    floor, ceiling = (math.log(result.perplexities[name]) for name in ("floor", "ceiling"))
    assert row.retained.mean == pytest.approx((floor - x) / (floor - ceiling), abs=0.02)


def test_almost_no_noise_hides_nothing(study: Study, stream: Ids) -> None:
    (row,) = measure(study, stream, [ALMOST_NO_NOISE], [8], ("prior", "nn", "ml", "map", "beam", "beam-token")).rows
    for name in ("nn", "ml", "map", "beam", "beam-token"):
        assert row.attacks[name].mean > 0.99
    assert row.attack_success == max(each.mean for each in row.attacks.values())
    assert row.leakage.cap_prior > 0.99


def test_the_attacks_are_on_the_bytes_that_a_device_sends(
    study: Study, codec: ServedCodec, stream: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[PrivateSegment] = []

    def recorded(latents: LatentTable, ids: Ids, setting: NoiseSetting) -> PrivateSegment:
        sent.append(encode(latents, ids, setting))
        return sent[-1]

    monkeypatch.setattr("del_server.evaluation.channel.encode", recorded)
    (row,) = measure(study, stream, [15], [2]).rows
    truth = cut(stream)[0].numpy()
    (segment,) = [each for each in sent if each.setting == NoiseSetting.from_mu(15, codec.table.spec.dim, 2)]
    dim, prior = codec.table.spec.dim, codec.table.prior
    guesses = map_guess(codec.table, segment.levels(dim), segment.setting, prior)[0].reshape(truth.shape)
    shares = (guesses == truth).mean(axis=1)
    assert row.attacks["map"].mean == pytest.approx(shares.mean(), abs=1e-6)
    assert row.attacks["map"].error == pytest.approx(shares.std(ddof=1) / math.sqrt(COUNT), abs=1e-6)
    assert row.attacks["prior"].mean == pytest.approx((truth == 258).mean(), abs=1e-6)
    assert row.bytes_per_token == len(segment.payload) / truth.size == 4
    # The nearest embedding, by angle, to what the model is given; each window is decoded as a prompt of its own.
    weight = F.normalize(study.judge.embeddings, dim=-1)
    windows = segment.levels(dim).reshape(*truth.shape, dim)
    alone = [PrivateSegment.from_levels(levels, segment.setting) for levels in windows]
    decoded = torch.stack([codec.embed([each])[codec.soft_tokens :] for each in alone])
    nearest = (F.normalize(decoded, dim=-1) @ weight.T).argmax(dim=-1).numpy()
    assert row.attacks["nn"].mean == pytest.approx((nearest == truth).mean(), abs=1e-6)


def test_every_setting_gets_a_finite_row(study: Study, stream: Ids) -> None:
    rows = measure(study, stream, [5, 20], [1, 4, 8]).rows
    assert [(row.mu, row.bits) for row in rows] == [(5, 1), (20, 1), (5, 4), (20, 4), (5, 8), (20, 8)]
    for row in rows:
        assert np.isfinite([*astuple(row.nll), *astuple(row.retained), *astuple(row.leakage)]).all()
        assert all(0 <= each.mean <= 1 for each in row.attacks.values())
        assert row.leakage.bits <= row.leakage.bits_limit


def test_seeds_are_studied_together(folder: Path, tiny_codec: Path, model: Any, stream: Ids, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (row,) = measure(Study(model, [folder, other], START), stream, [ALMOST_NO_NOISE], [8]).rows
    (alone,) = measure(Study(model, [folder], START), stream, [ALMOST_NO_NOISE], [8]).rows
    # The same codec twice: the mean is that of one, and the seeds add (almost) nothing to its error.
    assert row.retained.mean == pytest.approx(alone.retained.mean, rel=1e-3)
    assert row.retained.error == pytest.approx(alone.retained.error, rel=0.05)


def test_each_reader_has_its_own_adapter(tiny_model: Path, folder: Path, stream: Ids) -> None:
    from transformers import AutoModelForCausalLM

    for seed, where in enumerate((LORA_FOLDER, f"{REFERENCES_FOLDER}/floor", f"{REFERENCES_FOLDER}/ceiling")):
        teacher = AutoModelForCausalLM.from_pretrained(tiny_model)
        torch.manual_seed(seed)
        for weight in lora.add_lora(teacher, "taught", 2):
            torch.nn.init.normal_(weight, std=0.3)
        lora.save_lora(teacher, "taught", folder / where)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    bare = measure(Study(model, [folder], START), stream, [ALMOST_NO_NOISE], [8], ("prior",))
    (readers,) = Study(model, [folder], START).readers  # a second study of the same model finds them there
    adapters = [reader.adapter for reader in (readers.served, readers.floor, readers.ceiling)]
    assert None not in adapters
    assert len(set(adapters)) == 3
    assert readers.plain.adapter is None
    prompt, target = cut(stream)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert math.log(bare.perplexities["plain"]) == pytest.approx(nll(plain, None, prompt, target), rel=1e-4)
    lora.use(model, readers.floor.adapter)
    assert math.log(bare.perplexities["floor"]) == pytest.approx(nll(model, readers.floor.soft, None, target), rel=1e-4)


def test_a_codec_without_floor_and_ceiling_is_refused(folder: Path, model: Any) -> None:
    path = folder / REFERENCES_FILE
    safetensors.torch.save_file({"floor": torch.zeros(1, 32)}, path)
    with pytest.raises(ArtifactError, match="holds no floor and ceiling"):
        Study(model, [folder], START)
    path.unlink()
    with pytest.raises(ArtifactError, match="holds no floor and ceiling"):
        Study(model, [folder], START)


def certain(value: float) -> Estimate:
    return Estimate(value, 0.01, value - 0.02, value + 0.02)


def row(text: str, mu: float, bits: int, attack: float, retained: float) -> Row:
    attacks = {"prior": certain(0.05), "map": certain(attack)}
    strongest = max(attacks, key=lambda name: attacks[name].mean)
    leakage = Leakage(20.0, 0.1, 0.2, 8.0, 2.5, 0.1)
    return Row(text, mu, bits, 2.0, certain(math.log(20)), certain(retained), attacks, strongest, leakage)


def result(*rows: Row) -> TextResult:
    return TextResult("wiki", 7, {"floor": 90.0, "ceiling": 20.0, "plain": 25.0}, "clean", list(rows))


def test_the_table_and_the_json_say_what_was_measured() -> None:
    measured = [result(row("wiki", 5, 1, 0.123, -0.25))]
    assert table(measured).splitlines()[-1] == (
        "| wiki | 5 | 1 | 2 | 20.0 | -0.25 ± 0.01 | -0.27 to -0.23 | 0.050 ± 0.010 | **0.123 ± 0.010** "
        "| 2.50 (8.0) | 0.200 | 20.0 |"
    )
    written = json.loads(json.dumps(to_json(measured, [], [], {"count": 7})))
    assert written["schema"] == "del-evaluation/1"
    assert written["facts"] == {"count": 7}
    assert written["texts"][0]["perplexities"] == {"floor": 90.0, "ceiling": 20.0, "plain": 25.0}
    assert written["texts"][0]["rows"][0]["attacks"]["map"]["mean"] == 0.123


def test_what_can_not_be_told_is_null_in_the_json() -> None:
    alone = Estimate.of([0.5])
    assert math.isnan(alone.error)
    measured = dataclasses.replace(row("wiki", 5, 1, 0.1, 0.2), nll=alone)
    written = to_json([result(measured)], [], [], {})
    assert written["texts"][0]["rows"][0]["nll"] == {"mean": 0.5, "error": None, "low": None, "high": None}


def test_the_worst_of_all_texts_is_recorded_rounded_against_the_codec(folder: Path) -> None:
    path = folder / "device.safetensors"
    before = LatentTable.load(path)
    rows = [row("a", 10, 1, 0.2001, 0.6), row("b", 10, 1, 0.1, 0.5999), row("a", 5, 1, 0.0, -0.0301)]
    evaluate.record(folder, worst(readings([result(*rows)])))
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
            evaluate.record(folder, worst(readings([result(bad)])))
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
    assert [each["text"] for each in written["texts"]] == names
    rows = [row for each in written["texts"] for row in each["rows"]]
    for each in written["texts"]:
        found = re.search(rf"^{re.escape(each['text'])}: 8 windows; PPL floor ([0-9.]+), ceil", printed, re.MULTILINE)
        assert found
        assert float(found[1]) == pytest.approx(each["perplexities"]["floor"], rel=0.01)
    assert len(re.findall(r"^\| [^ ]+\.txt \|", printed, re.MULTILINE)) == len(rows) == 4

    spec = LatentTable.load(folder / "device.safetensors").spec
    assert [(m.mu_milli, m.bits) for m in spec.measured] == [(3000, 1), (8000, 1)]
    for measured in spec.measured:
        here = [r for r in rows if 1000 * r["mu"] == measured.mu_milli]
        success = max(attack["mean"] for r in here for attack in r["attacks"].values())
        assert measured.attack_success == math.ceil(1000 * success)
        assert measured.retained == math.floor(1000 * min(r["retained"]["mean"] for r in here))
    allowed = [m.mu_milli for m in spec.measured if m.attack_success <= 250]
    assert default_setting(spec) == NoiseSetting.from_mu(max(allowed, default=1000) / 1000, 16, 1)


def test_the_command_trains_attacks_and_measures_rivals(
    tiny_model: Path, folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    rivals = ["--baselines", "--eta", 30, "--epsilon", 4]
    trained = ["--attacks", "all", "--attack-text", text, "--attack-steps", 2, "--attack-batch", 2]
    run(tiny_model, folder, [text], "--mu", 8, "--beam", 2, *trained, *rivals, "--json", results)
    written = json.loads(results.read_text())
    ((row,),) = [each["rows"] for each in written["texts"]]
    assert set(row["attacks"]) == set(ATTACKS) - {"masked"}  # no masked language model is at hand
    assert row["strongest"] == max(row["attacks"], key=lambda name: row["attacks"][name]["mean"])
    names = [rival["name"] for rival in written["rivals"]]
    assert len(names) == len(set(names)) == 8
    assert any(name.startswith("SnD-style") for name in names)
    assert all(name in capsys.readouterr().out for name in names[:1])


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
        (["--beam", 0], "beam is 0"),
        (["--attacks", "guess"], "attacks is 'guess'"),
        (["--attacks", "inversion"], "name public text"),
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
