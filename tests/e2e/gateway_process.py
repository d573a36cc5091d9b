"""`del-client gateway` as a process for tests: started, ready, and told to leave in the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEVICE = os.environ.get("DEL_DEVICE_PYTHON", sys.executable)


@contextmanager
def gateway(server: str, codec: Path, folder: Path, *options: str) -> Iterator[str]:
    """The gateway's URL. It must leave cleanly."""
    files = ["--tokenizer", str(codec / "tokenizer.json"), "--chat-template", str(codec / "chat_template.jinja")]
    command = [DEVICE, "-m", "del_client.cli", "gateway", "--port", "0", "--server", server, *files, *options]
    environment = {**os.environ, "DEL_CACHE": str(folder), "DEL_LEDGER": str(folder / "ledger.sqlite3")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        ready = re.search(r"ready on (http://\S+)", process.stdout.readline())
        assert ready
        yield ready[1]
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
