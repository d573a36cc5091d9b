"""The systemd units: read and rated by systemd-analyze, their command lines by the programs themselves.

They are not started here: that takes a machine that systemd has booted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rendered import ROOT, serve_config

from del_client.parser import build_parser

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("del-server.service", "del-gateway@.service")
# systemd's measure, 0 (nothing is left open) to 10.
MOST_EXPOSED = {"del-server.service": 1.6, "del-gateway@.service": 1.2}
analyses = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def text_of(unit: str) -> str:
    return (FOLDER / unit).read_text()


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text_of(unit), re.MULTILINE)


def test_every_unit_is_looked_at() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(UNITS)


@analyses
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_wrong(unit: str, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    place = tmp_path / unit.replace("@", "@somebody")
    place.write_text(text_of(unit).replace("/opt/del/bin", str(programs)))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", place], capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_no_words_go_to_the_disk_with_a_core_dump(unit: str) -> None:
    assert values(unit, "LimitCORE") == ["0"]


@analyses
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_rates_them_as_hardened(unit: str) -> None:
    threshold = f"--threshold={MOST_EXPOSED[unit] * 10:.0f}"
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, FOLDER / unit], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout[-200:]


def test_the_server_reads_its_command_and_has_longer_than_its_drain() -> None:
    (command,) = values("del-server.service", "ExecStart")
    settings = dict(pair.split("=", 1) for line in values("del-server.service", "Environment") for pair in line.split())
    program, *words = re.sub(r"\$\{?(\w+)\}?", lambda found: settings[found[1]], command).split()
    config = serve_config(words)
    assert program == "/opt/del/bin/del-server"
    (seconds,) = values("del-server.service", "TimeoutStopSec")
    assert float(seconds) > config.drain_seconds


def test_the_client_reads_the_gateways_command_and_settings() -> None:
    (command,) = values("del-gateway@.service", "ExecStart")
    program, *words = command.split()
    assert program == "/opt/del/bin/del-client"
    arguments = build_parser().parse_args(words)
    assert (arguments.command, arguments.host) == ("gateway", "127.0.0.1")
