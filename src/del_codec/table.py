"""LatentTable: a codec's device half, one safetensors file: V x d int8 latents, unigram counts and the spec.

The file's SHA-256 is the codec's fingerprint. Knows nothing of noise, of the wire or of the LLM.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from del_codec.errors import ArtifactError, InvalidValue
from del_codec.spec import CodecSpec

MAX_TABLE_BYTES = 1 << 29
_HEADER_MAX = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class LatentTable:
    """latents: int8 [V, d] in -127..127; unigram_counts: uint32 [V]; fingerprint: SHA-256 of the file in hex."""

    spec: CodecSpec
    latents: npt.NDArray[np.int8]
    unigram_counts: npt.NDArray[np.uint32]
    fingerprint: str

    @classmethod
    def from_bytes(cls, data: bytes) -> LatentTable:
        """Parse the bytes of a table file. Raises ArtifactError that says what is damaged."""
        if not 8 < len(data) <= MAX_TABLE_BYTES:
            raise ArtifactError(f"table file has {len(data)} bytes: expected 9 to {MAX_TABLE_BYTES}")
        spec = _read_spec(data)
        try:
            tensors = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"table file is not valid safetensors ({error}); fetch it again") from None
        shape = (spec.vocabulary, spec.dim)
        latents = _tensor(tensors, "latents", np.dtype(np.int8), shape)
        counts = _tensor(tensors, "unigram_counts", np.dtype(np.uint32), shape[:1])
        if set(tensors) != {"latents", "unigram_counts"}:
            raise ArtifactError(f"table file holds {sorted(tensors)}: expected latents and unigram_counts alone")
        if (latents == -128).any():
            raise ArtifactError("table file holds the latent -128, outside of the box -127..127")
        if not counts.any():
            raise ArtifactError("table file's unigram counts are all zero")
        return cls(spec, latents, counts, hashlib.sha256(data).hexdigest())

    @classmethod
    def load(cls, path: Path) -> LatentTable:
        """Read a table file. Raises ArtifactError if it is missing, too large or damaged."""
        try:
            size = path.stat().st_size
            if size > MAX_TABLE_BYTES:
                raise ArtifactError(f"{path} has {size} bytes: a table has at most {MAX_TABLE_BYTES}")
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise ArtifactError(f"{path} can't be read: {error.strerror}") from None

    @staticmethod
    def to_bytes(spec: CodecSpec, latents: npt.NDArray[np.int8], unigram_counts: npt.NDArray[np.uint32]) -> bytes:
        """The bytes of a table file."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "latents": np.ascontiguousarray(latents),
            "unigram_counts": np.ascontiguousarray(unigram_counts),
        }
        return safetensors.numpy.save(tensors, metadata={"spec": spec.to_json()})

    @property
    def largest_latent(self) -> int:
        """max |q| over the table: the corner of the box that its rows reach (1 to 127)."""
        return max(1, int(self.latents.max()), -int(self.latents.min()))

    @property
    def prior(self) -> npt.NDArray[np.float64]:
        """Unigram probabilities [V], every token's count raised by one half so that none is impossible."""
        smoothed = self.unigram_counts.astype(np.float64) + 0.5
        return smoothed / float(smoothed.sum())

    def rows(self, token_ids: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Latents [T, d] of token ids [T]. Raises InvalidValue for an id outside of the vocabulary."""
        ids = np.asarray(token_ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.spec.vocabulary:
            outside = ids[(ids < 0) | (ids >= self.spec.vocabulary)]
            raise InvalidValue("token_id", int(outside[0]), f"the codec knows ids 0 to {self.spec.vocabulary - 1}")
        return self.latents.take(ids, axis=0)


def _read_spec(data: bytes) -> CodecSpec:
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_HEADER_MAX, len(data) - 8):
        raise ArtifactError(f"table file's header claims {length} bytes; the file is damaged, fetch it again")
    try:
        header = json.loads(data[8 : 8 + length])
        return CodecSpec.from_json(header["__metadata__"]["spec"])
    except InvalidValue as error:
        raise ArtifactError(f"table file's spec is not valid: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"table file has no readable spec ({type(error).__name__}); fetch it again") from None


def _tensor(
    tensors: dict[str, npt.NDArray[Any]], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    found = tensors.get(name)
    if found is None or found.dtype != dtype or found.shape != shape:
        seen = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise ArtifactError(f"table file's {name} is {seen}: expected {dtype} {list(shape)}")
    return found
