"""`del-client config`: every setting, its value and where it comes from."""

from __future__ import annotations

import argparse
import sys

from del_client.config import SETTINGS, Config
from del_client.terminal import one_line


def run(arguments: argparse.Namespace) -> int:
    """Print them; 0."""
    config: Config = arguments.config
    there = "" if config.file.exists() else " (not there)"
    sys.stdout.write(f"flags before DEL_ variables before {config.file}{there} before defaults\n\n")
    rows = [
        (setting.name, one_line(setting.shown(config.values[setting.name])), config.sources[setting.name])
        for setting in SETTINGS
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        sys.stdout.write(f"{name.ljust(widths[0])}  {value.ljust(widths[1])}  {source}\n")
    return 0
