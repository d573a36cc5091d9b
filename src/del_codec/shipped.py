"""The codecs that come with the package."""

from __future__ import annotations

from pathlib import Path

DEVICE_FILE = "device.safetensors"
TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


def codec_folders() -> list[Path]:
    """Folders of the shipped codecs, by name."""
    root = Path(__file__).parent / "codecs"
    return sorted(path.parent for path in root.glob(f"*/{DEVICE_FILE}"))
