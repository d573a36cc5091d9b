"""Codec device halves on disk, by fingerprint: fetched once, checked against their SHA-256 at every load.

Servers choose what they offer, so all together are bounded: those that were used least lately go.
Knows nothing of servers: it is handed the bytes as an iterator.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from del_client.query import MAX_CODEC_BYTES, CodecOffer
from del_codec.errors import MismatchError
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable

# All files together.
MAX_CACHE_BYTES = 8 * MAX_CODEC_BYTES
_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """$DEL_CACHE/codecs, or ~/.cache/del/codecs."""
    root = os.environ.get("DEL_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "del") / "codecs"


class CodecCache:
    """A folder of <fingerprint>.safetensors files, beside the package's. A missing or damaged one counts for none."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    async def load(self, offer: CodecOffer, chunks: AsyncIterator[bytes]) -> LatentTable:
        """The table with the offer's fingerprint: from this device, or else from `chunks`, which is then kept.

        Raises MismatchError if the chunks don't have the size and SHA-256 that were offered, ArtifactError if they
        are not a table.
        """
        data = self._read(offer)
        if data is not None:
            return LatentTable.from_bytes(data)
        data = await _collect(offer, chunks)
        table = LatentTable.from_bytes(data)
        try:
            self._write(offer.fingerprint, data)
            self._drop_oldest(offer.fingerprint)
        except OSError as error:
            _log.warning("codec is not cached: %s can't be written (%s)", self.folder, error.strerror)
        return table

    def _path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.safetensors"

    def _read(self, offer: CodecOffer) -> bytes | None:
        """From the folder, or from the codecs that come with the package."""
        for path in (self._path(offer.fingerprint), *(folder / DEVICE_FILE for folder in codec_folders())):
            try:
                if path.stat().st_size != offer.size:
                    continue
                data = path.read_bytes()
            except OSError:
                continue
            if hashlib.sha256(data).hexdigest() == offer.fingerprint:
                with suppress(OSError):  # a package's file may be another user's
                    path.touch()
                return data
        return None

    def _drop_oldest(self, kept: str) -> None:
        """Make room for others, and for what a killed process left of a file."""
        found = [(path.stat(), path) for path in self.folder.iterdir() if path.suffix in (".safetensors", ".part")]
        room = MAX_CACHE_BYTES
        for stat, path in sorted(found, key=lambda each: (each[1].stem == kept, each[0].st_mtime), reverse=True):
            room -= stat.st_size
            if room < 0:
                path.unlink(missing_ok=True)

    def _write(self, fingerprint: str, data: bytes) -> None:
        """All or nothing, and durable: a crash leaves the old file or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path(fingerprint))
        except BaseException:
            os.unlink(name)
            raise


async def _collect(offer: CodecOffer, chunks: AsyncIterator[bytes]) -> bytes:
    data, size = bytearray(offer.size), 0
    async for chunk in chunks:
        size += len(chunk)
        if not chunk or size > offer.size:
            break
        data[size - len(chunk) : size] = chunk
    found = hashlib.sha256(data).hexdigest()
    if size != offer.size or found != offer.fingerprint:
        raise MismatchError(
            f"the server's codec has {size} bytes or more, of SHA-256 {found}, and was announced as "
            f"{offer.fingerprint} ({offer.size} bytes): nothing was sent; try again, or use another server"
        )
    return bytes(data)
