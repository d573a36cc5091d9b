"""CodecSpec: what a codec is and what it was made for. The device's half of a codec carries it as JSON.

Knows nothing of the table's numbers or of files.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from del_codec.errors import InvalidValue

FORMAT = "del-codec/1"
MAX_DIM = 1024
MAX_VOCABULARY = 1 << 20
MAX_SPEC_CHARS = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of the measurements that came with the codec, at a noise setting (mu in thousandths, bits).

    `attack_success` and `retained` are shares in thousandths: of tokens that the best measured attack recovered, and of
    the prompt's usefulness that remained (see the codec's card for how each was measured).
    """

    mu_milli: int
    bits: int
    attack_success: int
    retained: int

    def __post_init__(self) -> None:
        _check_int("measured.mu_milli", self.mu_milli, 1, 10**7)
        _check_int("measured.bits", self.bits, 1, 8)
        _check_int("measured.attack_success", self.attack_success, 0, 1000)
        _check_int("measured.retained", self.retained, -1_000_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """The fixed facts of a codec.

    dim: coordinates a token (d). vocabulary: rows of the table (V). embedding_width: of the LLM (D). model,
    model_sha256: the LLM that it was made for and the SHA-256 of its input embeddings as bfloat16. tokenizer_sha256,
    chat_template_sha256: of tokenizer.json and of the template's UTF-8 text ("" where the model has none).
    mu_milli_min, mu_milli_max: the range of noise that it was trained for, in thousandths of mu. measured: rows of
    (setting, attack success, retained) by which a device picks its default.
    """

    model: str
    model_sha256: str
    dim: int
    vocabulary: int
    embedding_width: int
    tokenizer_sha256: str
    chat_template_sha256: str
    mu_milli_min: int
    mu_milli_max: int
    measured: tuple[Measured, ...] = ()

    def __post_init__(self) -> None:
        _check_int("dim", self.dim, 1, MAX_DIM)
        _check_int("vocabulary", self.vocabulary, 2, MAX_VOCABULARY)
        _check_int("embedding_width", self.embedding_width, 1, 1 << 20)
        _check_int("mu_milli_min", self.mu_milli_min, 1, 10**7)
        _check_int("mu_milli_max", self.mu_milli_max, self.mu_milli_min, 10**7)
        if not isinstance(self.model, str) or not 1 <= len(self.model) <= 256 or not self.model.isprintable():
            raise InvalidValue("model", self.model, "name the model in 1 to 256 printable characters")
        for name in ("model_sha256", "tokenizer_sha256", "chat_template_sha256"):
            value = getattr(self, name)
            absent_allowed = name == "chat_template_sha256" and value == ""
            if not absent_allowed and (not isinstance(value, str) or not _SHA256.fullmatch(value)):
                raise InvalidValue(name, value, "use a SHA-256 as 64 lower-case hex digits")

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, so that equal specs are equal bytes."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> CodecSpec:
        """Parse and validate; raises InvalidValue that names the field."""
        if len(text) > MAX_SPEC_CHARS:
            raise InvalidValue("spec", f"{len(text)} characters", f"at most {MAX_SPEC_CHARS}")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidValue("spec", text, f"must be JSON ({error})") from None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise InvalidValue("format", data.get("format") if isinstance(data, dict) else data, f"expected {FORMAT}")
        _check_keys(data, cls, "spec")
        rows = data.get("measured", [])
        if not isinstance(rows, list) or len(rows) > 1024:
            raise InvalidValue("measured", rows, "a list of at most 1024 rows")
        data["measured"] = tuple(_measured(row) for row in rows)
        return cls(**data)


def _measured(row: Any) -> Measured:
    _check_keys(row, Measured, "measured")
    return Measured(**row)


def _check_keys(data: Any, kind: type, field: str) -> None:
    names = {f.name for f in fields(kind)}
    if not isinstance(data, dict):
        raise InvalidValue(field, data, "must be an object")
    optional = {"measured"}
    if not names - optional <= set(data) <= names:
        raise InvalidValue(field, sorted(data), f"must have the keys {sorted(names)}")


def _check_int(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidValue(field, value, f"use a whole number from {low} to {high}")
