"""Files that are exchanged between the moment they are looked at and the moment they count."""

from __future__ import annotations

from pathlib import Path

import pytest
from client_fakes import FakeServer, Serving, client_arguments, make_codec, segments_of

from del_client import AsyncClient
from del_client.answer import Answer
from del_client.policy import Policy
from del_codec.errors import PrivacyRefusal
from del_codec.table import LatentTable


async def read(answer: Answer) -> str:
    return "".join([delta.text async for delta in answer])


async def test_a_policy_that_is_exchanged_after_it_was_read_allows_no_more(tmp_path: Path) -> None:
    codec, file = make_codec(tmp_path / "codec"), tmp_path / "policy.toml"
    file.write_text("allow_weak = false\nallow_clear = false\n")
    policy = Policy.load(file)
    file.write_text("allow_weak = true\nallow_clear = true\n")
    server = FakeServer(codec)
    async with (
        Serving(server) as address,
        AsyncClient(address, policy=policy, **client_arguments(codec, tmp_path)) as client,
    ):
        with pytest.raises(PrivacyRefusal, match="allow_clear"):
            await read(client.generate("a secret", clear=True))
        with pytest.raises(PrivacyRefusal, match="allow_weak"):
            await read(client.generate("a secret", mu=30.0))
    assert server.streams == [] or not any(segments_of(each) for stream in server.streams for each in stream.values())


async def test_a_cached_codec_that_is_overwritten_in_use_changes_nothing(tmp_path: Path) -> None:
    """In place, as one would who hopes that the file is mapped into memory."""
    codec = make_codec(tmp_path / "codec")
    server = FakeServer(codec)
    async with Serving(server) as address:
        async with AsyncClient(address, **client_arguments(codec, tmp_path)) as client:
            (kept,) = tmp_path.glob("*.safetensors")
            with kept.open("r+b") as file:
                file.write(b"\xff" * kept.stat().st_size)
            await read(client.generate("hello", mu=5.0, bits=1))
        async with AsyncClient(address, **client_arguments(codec, tmp_path)):
            assert LatentTable.load(kept).fingerprint == codec.fingerprint.hex()
    (query,) = [each for stream in server.streams for each in stream.values()]
    (private,) = [segment.private for segment in segments_of(query) if segment.HasField("private")]
    assert private.tokens == len("hello")
