"""The health check that the server's image carries, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from server_process import SERVE, running

from benchmarks.certificates import Authority

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "docker" / "health.py"
HEALTH = [sys.executable, str(SCRIPT)]


def test_health_of_a_server_with_mutual_tls(tiny_model: Path, tiny_codec: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    serve = [*SERVE, "--model", str(tiny_model), "--codec", str(tiny_codec)]
    tls = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.path)]
    environment = {**os.environ, "DEL_HEALTH": f"--ca={authority.path}"}
    with running([*serve, *tls]) as address:
        port = address.rsplit(":", 1)[1]
        known = subprocess.run(
            [*HEALTH, f"--address=127.0.0.1:{port}", "--cert", cert, "--key", key],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert (known.returncode, known.stdout.strip()) == (0, "SERVING")
        unknown = subprocess.run([*HEALTH, f"--address=127.0.0.1:{port}"], capture_output=True, env=environment)
        assert unknown.returncode == 1
    gone = subprocess.run([*HEALTH, f"--address=127.0.0.1:{port}"], capture_output=True, text=True)
    assert gone.returncode == 1
