"""The demo: a real server and a device without torch, one private prompt, what it cost and what it gave away.

Starts `del-server serve`, asks through `del-client` in the device's own environment, and stops the server again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROMPT = "My daughter Anna has a fever and a rash. What should I do?"
# The same, its name marked: it stays on the device, behind a placeholder.
MARKED = PROMPT.replace("Anna", "{{Anna}}")
WEAK_MU = "20"
READY = re.compile(r"del-server ready on (\S+)")
PROBE = """
import importlib.util, sys
import del_client.session, del_client.cli
absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
print(f"Python {sys.version.split()[0]}; not installed: {', '.join(absent)}")
sys.exit(len(absent) != 2)
"""


def main() -> int:
    """Run the demo; 0 if everything worked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-env", type=Path, required=True)
    parser.add_argument("--device-env", type=Path, required=True)
    arguments = parser.parse_args()
    device = arguments.device_env / "bin"
    title("The device: an environment of its own")
    say(subprocess.run([device / "python", "-c", PROBE], check=True, capture_output=True, text=True).stdout.strip())
    title("The server: SmolLM2-135M-Instruct (the first start converts its weights)")
    with server(arguments.server_env / "bin" / "del-server") as address, tempfile.TemporaryDirectory() as folder:
        # A ledger of the demo's own: its spending is not the user's.
        environment = {**os.environ, "DEL_LEDGER": str(Path(folder) / "ledger.sqlite3")}

        def client(*words: str) -> None:
            subprocess.run([device / "del-client", *words], check=True, stderr=sys.stdout, env=environment)

        def ask(prompt: str, *options: str) -> None:
            client("ask", prompt, "--server", address, "--max-tokens", "64", *options)

        title(f"Asked privately, at the default setting: {json.dumps(PROMPT)}")
        ask(PROMPT)
        title(f"The same at a weaker setting of the dial (--mu {WEAK_MU}): a better answer, little protection")
        ask(PROMPT, "--mu", WEAK_MU)
        title(f"What must not leak does not leave: {json.dumps(MARKED)}, the rest at --mu {WEAK_MU}")
        ask(MARKED, "--mu", WEAK_MU)
        title("The same in the clear (--public), for comparison")
        ask(PROMPT, "--public")
        title("What an attack reads, token by token, at the default setting")
        client("inspect", PROMPT, "--server", address)
        title("What the device has given away so far, from its ledger")
        client("budget")
    return 0


@contextlib.contextmanager
def server(executable: Path) -> Iterator[str]:
    """A server's address while the context is open; afterwards it is gone, whatever happened."""
    started = time.monotonic()
    process = subprocess.Popen([executable, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = READY.match(line)
        if not found:
            raise SystemExit(f"the server did not start (exit code {process.wait()})")
        say(f"{line.strip()}; {time.monotonic() - started:.1f} s after its start")
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    if code:
        raise SystemExit(f"the server ended with exit code {code}")


def title(text: str) -> None:
    """A heading."""
    say(f"\n== {text}")


def say(text: str) -> None:
    """Print at once: the children write to the same terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
