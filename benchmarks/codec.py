"""Targets of the codec."""

from __future__ import annotations

from benchmarks.target import Target
from del_codec.shipped import codec_folders


def shipped_mebibytes() -> float:
    """The largest shipped codec's folder, tokenizer and card included."""
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in codec_folders()]
    return max(sizes) / 2**20


TARGETS = [Target("codec.shipped_MiB", 8, "at most", shipped_mebibytes)]
