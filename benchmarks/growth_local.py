"""How a device's and a server's work grows with tokens, dimensions and vocabulary: in this process, no server.

CPU time, of one thread. Tables of other sizes than the shipped codec's are random: what they cost is the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import smollm2
from benchmarks.random_codec import VOCABULARY, decoder, table_bytes
from benchmarks.report.results import Place, Recorder
from benchmarks.turns import in_turns
from benchmarks.wire import NO_LIMITS
from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Policy
from del_client.query import GenerationOptions, Query
from del_client.transport.messages import requests, wire_size
from del_codec.accounting import certify
from del_codec.attacks import TokenAttack
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.released import release_of
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

GROUP = "growth"
MU = 8.0
TOKENS, DIM = 64, 64
DELTA = 1e-5
TIME, BYTES = "CPU time", "bytes"
ENCODE, CERTIFY, RELEASE = "device: encoding", "device: certificate", "device: release, with its ledger"
PREVIEW, LOAD = "device: reading an attack's guesses", "device: loading the table"
DECODE, MODEL = "server: decoding", "server: the model reads the prompt"
MESSAGES, TABLE, LEDGER = "messages up", "the device's half of a codec", "ledger file"
PROMPT, PROMPTS = "prompt tokens", "prompts"


@cache
def shipped() -> LatentTable:
    """The first shipped codec's table."""
    return LatentTable.load(codec_folders()[0] / DEVICE_FILE)


def segment_of(table: LatentTable, tokens: int) -> PrivateSegment:
    """So many tokens at one bit."""
    return encode(table, np.arange(tokens) + 100, NoiseSetting.from_mu(MU, table.spec.dim, 1))


def message_bytes(table: LatentTable, tokens: int) -> int:
    """Serialised messages of such a prompt, with gRPC's prefixes."""
    query = Query(table.fingerprint, (segment_of(table, tokens),), GenerationOptions(max_new_tokens=1))
    return sum(map(wire_size, requests(1, query, NO_LIMITS.message_bytes)))


def by_tokens(tokens: int, repeats: int, record: Recorder) -> None:
    """Of one prompt, at the shipped dimension and vocabulary."""
    table, model, codec = shipped(), smollm2.model(), smollm2.codec()
    setting = NoiseSetting.from_mu(MU, table.spec.dim, 1)
    segment = segment_of(table, tokens)
    prompt = codec.embed([segment]).unsqueeze(0)
    release = release_of(table, setting, tokens)
    spans = [Span(tuple(range(100, 100 + tokens)), private=True, message=0)]
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite3") as ledger:
        gate = Gate(Policy(), ledger, "server")
        works: dict[str, Callable[[], object]] = {
            ENCODE: partial(encode, table, np.arange(tokens) + 100, setting),
            CERTIFY: partial(certify, [release], unit="prompt", tokens=tokens, delta=DELTA),
            RELEASE: partial(gate.release, table, spans, setting),
            DECODE: partial(codec.decoder, [segment]),
            MODEL: partial(_read, model, prompt),
        }
        _time(record, works, {PROMPT: tokens}, repeats)
    record.add(BYTES, message_bytes(table, tokens), "B", "lower", MESSAGES, {PROMPT: tokens})


@torch.inference_mode()
def _read(model: Any, prompt: torch.Tensor) -> object:
    return model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)


def by_dimension(dim: int, repeats: int, record: Recorder) -> None:
    """Of TOKENS tokens, at a vocabulary of VOCABULARY."""
    raw = table_bytes(VOCABULARY, dim)
    table = LatentTable.from_bytes(raw)
    segment = segment_of(table, TOKENS)
    works: dict[str, Callable[[], object]] = {
        ENCODE: partial(encode, table, np.arange(TOKENS) + 100, segment.setting),
        DECODE: partial(decoder(table), [segment]),
    }
    _time(record, works, {"dim": dim}, repeats)
    record.add(BYTES, message_bytes(table, TOKENS), "B", "lower", MESSAGES, {"dim": dim})
    record.add(BYTES, len(raw), "B", "lower", TABLE, {"dim": dim})


def by_vocabulary(vocabulary: int, repeats: int, record: Recorder) -> None:
    """Of TOKENS tokens in DIM dimensions."""
    raw = table_bytes(vocabulary, DIM)
    table = LatentTable.from_bytes(raw)
    segment = segment_of(table, TOKENS)
    attack = TokenAttack(table, segment.setting, table.prior)
    levels = segment.levels(DIM)
    works: dict[str, Callable[[], object]] = {
        ENCODE: partial(encode, table, np.arange(TOKENS) + 100, segment.setting),
        LOAD: partial(LatentTable.from_bytes, raw),
        PREVIEW: partial(attack.guess, levels),
        DECODE: partial(decoder(table), [segment]),
    }
    _time(record, works, {"vocabulary": vocabulary}, repeats)
    record.add(BYTES, len(raw), "B", "lower", TABLE, {"vocabulary": vocabulary})


def by_prompts(prompts: int, record: Recorder) -> None:
    """What a ledger's file has beyond an empty one after so many prompts of TOKENS tokens, each remembered."""
    table = shipped()
    setting = NoiseSetting.from_mu(MU, table.spec.dim, 1)
    spans = [Span(tuple(range(100, 100 + TOKENS)), private=True, message=0)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        Ledger(path).close()
        empty = path.stat().st_size
        with Ledger(path) as ledger:
            gate = Gate(Policy(), ledger, "server")
            for number in range(prompts):
                gate.release(table, spans, setting, str(number))
        record.add(BYTES, path.stat().st_size - empty, "B", "lower", LEDGER, {PROMPTS: prompts})


def _time(record: Recorder, works: Mapping[str, Callable[[], object]], at: Place, repeats: int) -> None:
    for way, turns in in_turns(works, repeats).items():
        for turn in turns:
            record.add(TIME, turn.seconds, "s", "lower", way, at, beside=turn.unit)
