"""`python -m benchmarks.audit PIECE [--draws N] [--json OUT]`: the audit at length, through the messages of the wire.

Pieces: `bounds` (how much of epsilon a million draws prove), `faults` (what catches each planted fault), `honest` (how
often an audit of the honest mechanism gives an alarm). docs/audit.md shows what they found; benchmarks/results/audit
holds it whole.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats
from tqdm import tqdm

from del_client.query import GenerationOptions, Query
from del_client.transport.messages import requests
from del_codec.encode import encode
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb
from del_server.evaluation.audit.audit import CONFIDENCE, DELTAS, FRAME_TOKENS, Audit, audit, examine
from del_server.evaluation.audit.bounds import lower_bounds
from del_server.evaluation.audit.pair import corner_table, farthest_pair
from del_server.evaluation.audit.recording import Frame, Recording, Sender, encoder, record
from del_server.service.messages import segment_from_pb

DIM, MILLION = 64, 10**6
# (table, mu, bits, tokens): corners, and the codec that comes with the package, also at the noise that it is used at.
BOUNDS = [
    ("corners", 1.0, 1, 1),
    ("corners", 0.5, 1, 1),
    ("corners", 1.0, 4, 1),
    ("corners", 1.0, 8, 1),
    ("corners", 0.25, 1, 16),
    ("shipped", 1.0, 1, 1),
    ("shipped", 8.0, 1, 1),
]
FAULT_DRAWS, HONEST_DRAWS, HONEST_AUDITS = 5_000, 2_000, 1_000
HONEST_BITS = (1, 4, 8)
TARGET_DELTA, TARGET_AUDITS = 1e-2, 30
SURE = 1 - 1e-6
ODD_FRAME = 31


def over_messages(table: LatentTable) -> Sender:
    """Frames that go from the device's encoder through its messages, as bytes, to the server's reader."""
    numbers = itertools.count(1)

    def send(token_ids: Sequence[int], setting: NoiseSetting) -> Frame:
        query = Query(table.fingerprint, (encode(table, token_ids, setting),), GenerationOptions(max_new_tokens=1))
        (data,) = (message.SerializeToString() for message in requests(next(numbers) % 2**32, query, 0))
        return received(pb.GenerateRequest.FromString(data), time.time())

    return send


def received(message: pb.GenerateRequest, at: float) -> Frame:
    """The one private segment of a query's one message, and everything around it."""
    found = [place for place, segment in enumerate(message.open.segments) if segment.HasField("private")]
    if len(found) != 1:
        raise ValueError(f"the message has {len(found)} private segments: an audit takes one of each")
    segment = segment_from_pb(message.open.segments[found[0]], found[0])
    assert isinstance(segment, PrivateSegment)
    around = pb.GenerateRequest()
    around.CopyFrom(message)
    around.query_id = 0
    around.open.segments[found[0]].private.payload = b""
    return Frame(at, segment, around.SerializeToString())


def table_of(name: str) -> LatentTable:
    """`corners` or `shipped`."""
    return corner_table(DIM) if name == "corners" else LatentTable.load(codec_folders()[0] / DEVICE_FILE)


def bound_audit(name: str, mu: float, bits: int, tokens: int, draws: int) -> Audit:
    """One audit through the messages of the wire."""
    table = table_of(name)
    setting = NoiseSetting.from_mu(mu, table.spec.dim, bits)
    return audit(table, farthest_pair(table), setting, draws, sender=over_messages(table), tokens=tokens)


def bounds(draws: int) -> dict[str, Any]:
    """Every setting of BOUNDS."""
    rows = []
    for name, mu, bits, tokens in BOUNDS:
        found = bound_audit(name, mu, bits, tokens, draws)
        rows.append({"table": name, "mu": mu, "bits": bits, **found.to_dict()})
        proven = {f"{bound.delta:g}": round(bound.ratio, 3) for bound in found.bounds}
        print(name, mu, bits, tokens, proven, found.alarms, file=sys.stderr)
    return {"piece": "bounds", "draws": draws, "audits": rows}


def faults(draws: int) -> dict[str, Any]:
    """Every planted fault: what gave an alarm, at a confidence of all but one in a million."""
    rows = []
    # Planted faults lie with the tests and nowhere else.
    for name, fault in importlib.import_module("tests.attacks.sabotaged").FAULTS.items():
        table = corner_table(fault.dim)
        sender, randomizer = fault.plant(table)
        found = audit(
            table,
            farthest_pair(table),
            NoiseSetting.from_mu(1, fault.dim, fault.bits),
            draws,
            sender=sender,
            randomizer=randomizer,
            confidence=SURE,
            frame_tokens=ODD_FRAME,
        )
        caught = bool(set(fault.caught_by) & set(found.alarms))
        rows.append({"fault": name, "bits": fault.bits, "alarms": found.alarms, "caught": caught})
        print(name, found.alarms, file=sys.stderr)
    return {"piece": "faults", "draws": draws, "confidence": SURE, "faults": rows}


def honest(draws: int, audits: int) -> dict[str, Any]:
    """Alarms about the honest mechanism, by number of bits; of the tests that can give a false one."""
    table, rows = corner_table(DIM), []
    for bits in HONEST_BITS:
        setting, alarms = NoiseSetting.from_mu(1, DIM, bits), Counter[str]()
        for _ in tqdm(range(audits), desc=f"{bits} bits"):
            found = _alarms(record(encoder(table), table, (0, 1), setting, draws, FRAME_TOKENS), table)
            alarms.update([*found, *(["any"] if found else [])])
        interval = stats.binomtest(alarms["any"], audits).proportion_ci(0.95)
        low, high = float(interval.low), float(interval.high)
        rows.append({"bits": bits, "audits": audits, "alarms": dict(alarms), "rate_low": low, "rate_high": high})
        print(rows[-1], file=sys.stderr)
    return {"piece": "honest", "draws": draws, "confidence": CONFIDENCE, "rows": rows}


def proven_share() -> float:
    """Of epsilon at delta = 1e-2, mu 1, one bit, in the corners: what a million draws of each token prove."""
    found = bound_audit("corners", 1.0, 1, 1, MILLION)
    return next(bound.ratio for bound in found.bounds if bound.delta == TARGET_DELTA)


def missed_faults() -> float:
    """Planted faults that give no alarm."""
    return sum(not row["caught"] for row in faults(FAULT_DRAWS)["faults"])


def honest_refutations() -> float:
    """Audits of the honest mechanism that refute its epsilon."""
    return sum(row["alarms"].get("epsilon", 0) for row in honest(HONEST_DRAWS, TARGET_AUDITS)["rows"])


def _alarms(recording: Recording, table: LatentTable) -> list[str]:
    found = [finding.test for finding in examine(recording, [], table, CONFIDENCE) if finding.alarm]
    refuted = any(bound.refutes for bound in lower_bounds(recording, DELTAS, (1 - CONFIDENCE) / 2))
    return [*found, "epsilon"] if refuted else found


def main() -> None:
    """Measure, show each line as it comes, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", choices=("bounds", "faults", "honest"))
    parser.add_argument("--draws", type=int, help="of each token (bounds 10^6, faults 5000, honest 2000)")
    parser.add_argument("--audits", type=int, default=HONEST_AUDITS, help="of `honest` (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything found to OUT")
    arguments = parser.parse_args()
    pieces: dict[str, Callable[[], dict[str, Any]]] = {
        "bounds": lambda: bounds(arguments.draws or MILLION),
        "faults": lambda: faults(arguments.draws or FAULT_DRAWS),
        "honest": lambda: honest(arguments.draws or HONEST_DRAWS, arguments.audits),
    }
    found = pieces[arguments.piece]()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
