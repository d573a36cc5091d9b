"""A conversation of several turns between two processes, as the server's side recorded it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from recording_server import ANSWER, Recorder, read_requests
from tokenizers import Tokenizer

from del_client import Ledger, Policy
from del_client.spending import budget
from del_codec.accounting import Release, epsilon
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb

DIM, MU = 16, 7.0
TURNS = ["my first question", "and a second one", "a third", "the last of them"]


def chat(server: str, codec: Path, folder: Path, lines: list[str]) -> str:
    files = ["--tokenizer", str(codec / "tokenizer.json"), "--chat-template", str(codec / "chat_template.jinja")]
    places = ["--ledger", str(folder / "ledger.sqlite3"), "--mu", str(MU), "--max-tokens", "40"]
    command = [sys.executable, "-m", "del_client.cli", "chat", "--server", server, *files, *places]
    environment = {**os.environ, "DEL_CACHE": str(folder / "cache")}
    text = "".join(line + "\n" for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def prompts(requests: list[pb.GenerateRequest]) -> list[list[pb.Segment]]:
    """The segments of each query, in order."""
    found: dict[int, list[pb.Segment]] = {}
    for request in requests:
        found.setdefault(request.query_id, []).extend([*request.open.segments, *request.segments.segments])
    return list(found.values())


def test_every_turn_sends_the_bits_of_the_earlier_ones_and_the_ledger_counts_each_once(
    recorder: Recorder, tiny_codec: Path, tmp_path: Path
) -> None:
    chat(recorder.address, tiny_codec, tmp_path, TURNS)
    sent = prompts(read_requests(recorder.file))
    bits = [[s.private.SerializeToString() for s in prompt if s.HasField("private")] for prompt in sent]
    assert [len(turn) for turn in bits] == [1, 2, 3, 4]
    for turn in bits:
        assert turn == bits[-1][: len(turn)]
    tokens = [segment.private.tokens for segment in sent[-1] if segment.HasField("private")]
    assert tokens == [len(turn) for turn in TURNS]  # one token a byte
    with Ledger(tmp_path / "ledger.sqlite3") as ledger:
        found = budget(ledger, Policy(), "conversation", 5)
    (row,) = found.rows
    assert (row.prompts, row.tokens) == (len(TURNS), sum(tokens))
    table = LatentTable.load(tiny_codec / "device.safetensors")
    threshold = NoiseSetting.from_mu(MU, DIM, 1).threshold_max(table.largest_latent)
    assert row.epsilon == pytest.approx(epsilon(Release(DIM * sum(tokens), threshold), 1e-5), rel=0.01)


def test_answers_go_back_as_they_came_and_placeholders_stay_on_the_device(
    recorder: Recorder, tiny_codec: Path, tmp_path: Path
) -> None:
    out = chat(recorder.address, tiny_codec, tmp_path, ["my dog is {{Bello}}, and Bello barks", "what is Bello?"])
    assert out.splitlines()[0] == "Good Bello: Bello."
    tokenizer = Tokenizer.from_file(str(tiny_codec / "tokenizer.json"))
    sent = prompts(read_requests(recorder.file))[1]
    text = "".join(tokenizer.decode(list(s.public.token_ids), skip_special_tokens=False) for s in sent)
    assert text.count("[SECRET_1]") == 5
    assert "Bello" not in text
    answer = tokenizer.encode(ANSWER, add_special_tokens=False).ids
    assert answer in [list(s.public.token_ids) for s in sent]
