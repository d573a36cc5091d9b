"""Generate src/del_codec/v1 from protos/; with --check, fail if what is committed is not what the protos give."""

from __future__ import annotations

import argparse
import importlib.resources
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
PROTO = "del_codec/v1/inference.proto"
GENERATED = ("inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py")


def generate(out: Path) -> None:
    """Write the generated modules below `out`."""
    include = importlib.resources.files("grpc_tools") / "_proto"
    outputs = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(["protoc", f"-I{ROOT / 'protos'}", f"-I{include}", *outputs, PROTO]):
        sys.exit("protoc failed")


def stale() -> list[str]:
    """Committed modules that differ from what the protos give."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "del_codec" / "v1"
        committed = ROOT / "src" / "del_codec" / "v1"
        return [name for name in GENERATED if (fresh / name).read_bytes() != (committed / name).read_bytes()]


def main() -> None:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generate(ROOT / "src")
    elif different := stale():
        sys.exit(f"not what the protos give: {', '.join(different)}; run make proto")


if __name__ == "__main__":
    main()
