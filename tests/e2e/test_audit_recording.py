"""The audit of a whole client, from what a server records of its prompts; a client that repeats its bits is caught."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from recording_server import Recorder, read_requests

from benchmarks.audit import received
from del_client import Client
from del_client import gate as gate_module
from del_client.codec_cache import CodecCache
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE
from del_codec.table import LatentTable
from del_server.evaluation.audit.audit import examine
from del_server.evaluation.audit.bounds import lower_bounds
from del_server.evaluation.audit.recording import Recording

SURE = 1 - 1e-6
MU, TURNS, TOKENS = 7.0, 20, 80


def farthest_letters(table: LatentTable, letters: str, ids: list[int]) -> tuple[str, str]:
    """The two letters whose rows lie farthest apart."""
    rows = table.latents[ids].astype(int)
    squares = np.square(rows[:, None] - rows[None]).sum(axis=2)
    first, second = np.unravel_index(squares.argmax(), squares.shape)
    return letters[first], letters[second]


def record_of(recorder: Recorder, codec: Path, folder: Path) -> tuple[Recording, LatentTable]:
    """What the server received of private prompts that repeat one letter or the other."""
    files = {"tokenizer": codec / "tokenizer.json", "chat_template": codec / "chat_template.jinja"}
    table = LatentTable.load(codec / DEVICE_FILE)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    with Client(recorder.address, **files, cache=CodecCache(folder), ledger=folder / "ledger.sqlite3") as client:
        ids = [client.reader.tokenizer.encode(letter, add_special_tokens=False).ids[0] for letter in alphabet]
        pair = farthest_letters(table, alphabet, ids)
        for _ in range(TURNS):
            for letter in pair:
                "".join(delta.text for delta in client.generate(letter * TOKENS, mu=MU, max_new_tokens=1))
    frames = [received(request, time.time()) for request in read_requests(recorder.file)]
    turns = list(zip(frames[::2], frames[1::2], strict=True))
    tokens = tuple(ids[alphabet.index(letter)] for letter in pair)
    setting = NoiseSetting.from_mu(MU, table.spec.dim, 1)
    return Recording.of(table, (tokens[0], tokens[1]), setting, turns), table


def alarms(recording: Recording, table: LatentTable) -> set[str]:
    return {finding.test for finding in examine(recording, [], table, SURE) if finding.alarm}


def test_what_a_server_records_refutes_nothing(recorder: Recorder, tiny_codec: Path, tmp_path: Path) -> None:
    recording, table = record_of(recorder, tiny_codec, tmp_path)
    assert recording.draws == TURNS * TOKENS
    assert alarms(recording, table) == set()
    bound = lower_bounds(recording, [1e-2], 1e-6)[0]
    assert 0 < bound.lower <= bound.certified


def test_a_client_that_repeats_its_random_bits_is_seen(
    recorder: Recorder, tiny_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[tuple[int, ...], PrivateSegment] = {}

    def once(table: LatentTable, ids: tuple[int, ...], setting: NoiseSetting) -> PrivateSegment:
        return drawn.setdefault(tuple(ids), encode(table, ids, setting))

    monkeypatch.setattr(gate_module, "encode", once)
    assert "repeats" in alarms(*record_of(recorder, tiny_codec, tmp_path))
