"""`del-server audit`: tries to refute the certificate of the randomiser that is installed here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE
from del_codec.table import LatentTable
from del_server.evaluation.audit.audit import CONFIDENCE, DELTAS, FRAME_TOKENS, audit
from del_server.evaluation.audit.pair import corner_table, farthest_pair
from del_server.evaluation.audit.report import describe

CORNERS = "corners"
ALARMED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `del-server audit`."""
    parser.add_argument("--codec", type=Path, metavar="DIR", help="(default: a table whose tokens lie in the corners)")
    parser.add_argument("--dim", type=int, default=64, help="of that table (default: %(default)s)")
    parser.add_argument("--mu", type=float, nargs="+", default=[1.0], help="(default: 1)")
    parser.add_argument("--bits", type=int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument("--draws", type=int, default=100_000, help="of each of two tokens (default: %(default)s)")
    parser.add_argument("--frame-tokens", type=int, default=FRAME_TOKENS, help="a frame (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=1, help="of the unit that is certified (default: %(default)s)")
    parser.add_argument("--delta", type=float, nargs="+", default=list(DELTAS), help="(default: %(default)s)")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE, help="of one audit (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything found to OUT")


def run(arguments: argparse.Namespace) -> None:
    """Audit each setting, print what was found, and write what was asked for. Exits with 1 after an alarm."""
    table = LatentTable.load(arguments.codec / DEVICE_FILE) if arguments.codec else corner_table(arguments.dim)
    pair, found = farthest_pair(table), []
    for bits in arguments.bits:
        for mu in arguments.mu:
            one = audit(
                table,
                pair,
                NoiseSetting.from_mu(mu, table.spec.dim, bits),
                arguments.draws,
                deltas=arguments.delta,
                confidence=arguments.confidence,
                frame_tokens=arguments.frame_tokens,
                tokens=arguments.tokens,
            )
            print(describe(one, table.spec.dim), flush=True)
            found.append(one)
    if arguments.json:
        facts = {
            "table": str(arguments.codec) if arguments.codec else f"{CORNERS}, d = {arguments.dim}",
            "fingerprint": table.fingerprint,
            "audits": [one.to_dict() for one in found],
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    if any(one.alarms for one in found):
        sys.exit(ALARMED)
