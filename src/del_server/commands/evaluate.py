"""`del-server evaluate`: what a codec is worth and what it gives away, on texts it has not seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

from del_codec.errors import InvalidValue
from del_codec.shipped import DEVICE_FILE
from del_codec.spec import Measured
from del_codec.table import LatentTable
from del_server.codec import ServedCodec
from del_server.commands.train import DTYPES, hub_tokenizer
from del_server.evaluation import Bounds, Evaluation, Row, table, to_json
from del_server.models import load_model
from del_server.training.text import read_texts, tokenize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server evaluate`."""
    parser.add_argument("--codec", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder or a Hugging Face id (default: smollm2)")
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="FILE", help=".txt or .jsonl, also .xz")
    parser.add_argument("--mu", type=float, nargs="+", default=[5.0, 10.0, 20.0, 40.0])
    parser.add_argument("--bits", type=int, nargs="+", default=[1])
    parser.add_argument("--count", type=int, default=128, help="windows of each text (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="private tokens of a window (default: %(default)s)")
    parser.add_argument("--continuation", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything measured to OUT")
    parser.add_argument("--record", action="store_true", help="write the rows into the codec (its fingerprint changes)")
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the model (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, and write what was asked for."""
    for name in ("count", "prompt", "continuation"):
        if getattr(arguments, name) < 1:
            raise InvalidValue(name, getattr(arguments, name), "use at least 1")
    model = load_model(arguments.model, arguments.dtype, arguments.device)
    codec = ServedCodec.load(arguments.codec, model)
    evaluation = Evaluation(codec, arguments.codec, model)
    tokenizer = hub_tokenizer(arguments.model)
    separator = int(tokenizer.convert_tokens_to_ids(tokenizer.unk_token or tokenizer.eos_token))
    bounds: dict[str, Bounds] = {}
    rows: list[Row] = []
    for path in arguments.text:
        stream = tokenize(tokenizer, read_texts(path), separator)
        name = f"{path.parent.name}/{path.name}"
        bounds[name], measured = evaluation.measure(
            name,
            stream,
            mus=arguments.mu,
            bits=arguments.bits,
            prompt=arguments.prompt,
            continuation=arguments.continuation,
            count=arguments.count,
        )
        rows += measured
        found = bounds[name]
        print(
            f"{name}: floor PPL {math.exp(found.floor):.1f}, ceiling {math.exp(found.ceiling):.1f}, "
            f"plain clean prompt {math.exp(found.plain):.1f}",
            flush=True,
        )
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(bounds, rows), indent=1) + "\n")
    if arguments.record:
        record(arguments.codec, codec.table, rows)


def record(folder: Path, latents: LatentTable, rows: list[Row]) -> None:
    """Write what was measured into the device's half: at each setting the texts' highest attack success and lowest
    retained share, since a default must hold on both."""
    settings = sorted({(row.mu, row.bits) for row in rows})
    measured = []
    for mu, bits in settings:
        here = [row for row in rows if (row.mu, row.bits) == (mu, bits)]
        success = max(row.attack_success for row in here)
        retained = min(row.retained.mean for row in here)
        measured.append(Measured(round(1000 * mu), bits, math.ceil(1000 * success), math.floor(1000 * retained)))
    spec = dataclasses.replace(latents.spec, measured=tuple(measured))
    (folder / DEVICE_FILE).write_bytes(LatentTable.to_bytes(spec, latents.latents, latents.unigram_counts))
