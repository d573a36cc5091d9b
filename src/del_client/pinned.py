"""Tokenizer and chat template of a codec, found on this device by their SHA-256.

Both decide which ids are public, so they never come from a server: only from the package's codecs or a file that the
user names, and only if their bytes have the hash that the codec was made for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from del_client.chat_template import ChatTemplate
from del_client.prompt import PromptReader
from del_codec.errors import ArtifactError, MismatchError
from del_codec.shipped import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, codec_folders
from del_codec.spec import CodecSpec

MAX_FILE_BYTES = 1 << 28


def load_reader(spec: CodecSpec, tokenizer: Path | None = None, chat_template: Path | None = None) -> PromptReader:
    """The PromptReader that a codec was made for, from the files named or else from the package's codecs.

    Raises MismatchError where no file has the right hash, ArtifactError for a file that can't be read or parsed.
    """
    named = [tokenizer] if tokenizer else [folder / TOKENIZER_FILE for folder in codec_folders()]
    data = _find("tokenizer", spec.tokenizer_sha256, spec.model, named, "--tokenizer FILE")
    try:
        parsed = Tokenizer.from_buffer(data)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ArtifactError(f"tokenizer of {spec.model} can't be parsed: {error}") from None
    return PromptReader(parsed, _template(spec, chat_template))


def _template(spec: CodecSpec, chat_template: Path | None) -> ChatTemplate | None:
    if not spec.chat_template_sha256:
        if chat_template:
            raise MismatchError(f"codec of {spec.model} has no chat template: leave --chat-template out")
        return None
    named = [chat_template] if chat_template else [folder / CHAT_TEMPLATE_FILE for folder in codec_folders()]
    data = _find("chat template", spec.chat_template_sha256, spec.model, named, "--chat-template FILE")
    try:
        return ChatTemplate(data.decode())
    except UnicodeDecodeError:
        raise ArtifactError(f"chat template of {spec.model} is not UTF-8") from None


def _find(kind: str, sha256: str, model: str, candidates: Iterable[Path], option: str) -> bytes:
    """The bytes of the first candidate that has the hash."""
    seen = []
    for path in candidates:
        data = _read(path)
        found = hashlib.sha256(data).hexdigest()
        if found == sha256:
            return data
        seen.append(f"{path} has {found}")
    beside = f" ({'; '.join(seen)})" if seen else ""
    raise MismatchError(
        f"no {kind} with SHA-256 {sha256} on this device{beside}: pass the one of {model} with {option}"
    )


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ArtifactError(f"{path} has over {MAX_FILE_BYTES} bytes: not a tokenizer or chat template")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None
