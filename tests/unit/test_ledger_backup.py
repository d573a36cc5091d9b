"""A ledger's backup and what restoring one means, as docs/operations.md says."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from client_fakes import make_codec

from del_client.cutting import Span
from del_client.gate import Gate
from del_client.ledger import Ledger
from del_client.policy import Limit, Policy, UnitLimits
from del_client.report import release_of
from del_client.spending import budget
from del_codec.accounting import rho
from del_codec.errors import LimitExceeded
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.table import LatentTable

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
SERVER, TOKENS, QUERIES = "127.0.0.1:50051", 10, 40


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatentTable:
    return make_codec(tmp_path_factory.mktemp("codec")).table


@pytest.fixture(scope="module")
def setting(table: LatentTable) -> NoiseSetting:
    return NoiseSetting.from_mu(5, table.spec.dim, 1)


def ask(ledger: Ledger, table: LatentTable, setting: NoiseSetting, name: str, policy: Policy = Policy()) -> list[bytes]:  # noqa: B008
    """Release the first message of a conversation; its bits."""
    spans = [Span(tuple(range(5, 5 + TOKENS)), private=True, message=0)]
    prepared = Gate(policy, ledger, SERVER).release(table, spans, setting, name)
    return [segment.payload for segment in prepared.segments if isinstance(segment, PrivateSegment)]


def tokens(path: Path) -> int:
    with Ledger(path) as ledger:
        return sum(row.tokens for row in budget(ledger, Policy(), "conversation", QUERIES).rows)


def backup(path: Path, copy: Path) -> None:
    """The command that the document tells to run, word for word."""
    (program,) = re.findall(r"python3 -c '(import sqlite3.*?)' ", DOCUMENT.read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", program, path, copy], check=True)


def test_a_copy_made_while_queries_are_charged_is_whole(
    tmp_path: Path, table: LatentTable, setting: NoiseSetting
) -> None:
    path, copy = tmp_path / "ledger.sqlite3", tmp_path / "copy.sqlite3"
    begun = threading.Event()
    with Ledger(path) as ledger:
        sent: dict[str, list[bytes]] = {}

        def work() -> None:
            for number in range(QUERIES):
                sent[f"c{number}"] = ask(ledger, table, setting, f"c{number}")
                begun.set()

        worker = threading.Thread(target=work)
        worker.start()
        begun.wait()
        backup(path, copy)
        worker.join()
        with sqlite3.connect(copy) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        held = tokens(copy)
        assert TOKENS <= held <= TOKENS * QUERIES
        # The copy has the key of the hashes and the bits: what it knows is sent again as the same bits, at no cost.
        with Ledger(copy) as restored:
            assert ask(restored, table, setting, "c0") == sent["c0"]
        assert tokens(copy) == held
    assert copy.stat().st_mode & 0o777 == 0o600


def test_the_file_alone_lacks_what_stands_in_its_log(tmp_path: Path, table: LatentTable, setting: NoiseSetting) -> None:
    path, plain, copy = (tmp_path / f"{name}.sqlite3" for name in ("ledger", "plain", "copy"))
    with Ledger(path) as ledger:
        ask(ledger, table, setting, "before")
    with Ledger(path) as ledger:
        ask(ledger, table, setting, "now")
        shutil.copy(path, plain)
        backup(path, copy)
    assert (tokens(plain), tokens(copy)) == (TOKENS, 2 * TOKENS)


def test_an_older_copy_opens_the_budget_again(tmp_path: Path, table: LatentTable, setting: NoiseSetting) -> None:
    path, copy = tmp_path / "ledger.sqlite3", tmp_path / "copy.sqlite3"
    both = rho(release_of(table, setting, 2 * TOKENS))
    policy = Policy(limits=UnitLimits(day=Limit(rho=both * 1.01)))
    with Ledger(path) as ledger:
        ask(ledger, table, setting, "before", policy)
        backup(path, copy)
        later = ask(ledger, table, setting, "later", policy)
        with pytest.raises(LimitExceeded):
            ask(ledger, table, setting, "too much", policy)
    with Ledger(copy) as restored:
        # What was sent after the copy is unknown to it: charged as new, and drawn anew.
        assert ask(restored, table, setting, "later", policy) != later
    assert tokens(copy) == 2 * TOKENS
