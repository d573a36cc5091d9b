"""A device that is killed at random: its ledger never holds less than what was sent, and no more than one query above
it for each kill. A trace of one that lives shows each charge synced to the disk before its bits are written out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill(queries: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ledger_kills", "--queries", str(queries)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_ledger_covers_what_was_sent_however_the_device_dies():
    found = kill(queries=30)
    assert found["queries"] >= 30
    assert found["kills"] >= 5
    assert 0 <= found["above"] <= found["kills"]


@pytest.mark.slow
def test_the_same_for_five_hundred_queries():
    found = kill(queries=500)
    assert found["kills"] >= 100
    assert 0 <= found["above"] <= found["kills"]


SENDER = """
import os, sys
from pathlib import Path
from benchmarks.ledger_kills import spans_of, tiny_table
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Policy
from del_codec.noise import NoiseSetting

table = tiny_table()
gate = Gate(Policy(), Ledger(Path(sys.argv[1])), "traced")
for number in range(5):
    payload = gate.release(table, spans_of(str(number)), NoiseSetting.from_mu(5, 16, 1)).segments[0].payload
    os.write(1, b"SENT" + payload)
"""


def can_trace() -> bool:
    return shutil.which("strace") is not None and subprocess.run(["strace", "-o", os.devnull, "true"]).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace here")
def test_every_charge_is_synced_before_its_bits_are_sent(tmp_path: Path):
    ledger, trace = tmp_path / "ledger.sqlite3", tmp_path / "trace"
    command = [sys.executable, "-c", SENDER, str(ledger)]
    calls = "openat,write,pwrite64,fsync,fdatasync"
    subprocess.run(
        ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", str(trace), *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    events = [_event(line, ledger.name) for line in trace.read_text().splitlines()]
    order = "".join(event for event in events if event)
    # From one sending to the next: the charge is written to the log and synced, then nothing but the sending.
    sendings = order.split("S")[:-1]
    assert len(sendings) == 5
    assert all(re.fullmatch(r"[wf]*wf+", before) for before in sendings), order


def _event(line: str, ledger: str) -> str:
    if "SENT" in line:
        return "S"
    if f"{ledger}-wal>" not in line:
        return ""
    if re.search(r"\b(fsync|fdatasync)\(.* = 0", line):
        return "f"
    return "w" if re.search(r"\bp?write(64)?\(", line) else ""
