"""The device's Dockerfile, built whole by Buildah on a Debian made by debootstrap, and its image run as its user."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from rendered import ROOT

NEEDED = ("buildah", "debootstrap")
missing = [name for name in NEEDED if shutil.which(name) is None] + ["root"] * (os.geteuid() != 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
def test_the_devices_image_is_built_and_certifies() -> None:
    asked = ["del-client", "certify", "--dim", "64", "--bits", "1", "--mu", "8", "--tokens", "15", "--delta", "1e-5"]
    found = subprocess.run([ROOT / "deploy/docker/rehearse.sh", "device", *asked], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "epsilon       523.325 at delta 1e-05" in found.stdout
