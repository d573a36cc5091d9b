"""The device's copy of a codec, its cache, its pinned files and its default noise."""

from __future__ import annotations

import hashlib
import logging
import os
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from client_fakes import DIM, TinyCodec, make_codec

from del_client import codec_cache, pinned
from del_client.codec_cache import CodecCache, default_folder
from del_client.defaults import default_mu, default_setting, range_warning
from del_client.pinned import load_reader
from del_client.query import MAX_CODEC_BYTES, CodecOffer
from del_codec.errors import ArtifactError, MismatchError, PrivacyRefusal
from del_codec.noise import NoiseSetting
from del_codec.spec import Measured


@pytest.fixture
def offer(codec: TinyCodec) -> CodecOffer:
    return CodecOffer(codec.fingerprint.hex(), len(codec.data))


class Download:
    """Chunks, counted when they are asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 512):
            self.taken += 1
            yield self.data[start : start + 512]


class TestCache:
    async def test_a_codec_is_fetched_once(self, codec: TinyCodec, offer: CodecOffer, tmp_path: Path) -> None:
        cache = CodecCache(tmp_path / "a" / "codecs")
        first = await cache.load(offer, aiter(Download(codec.data)))
        again = Download(b"")
        second = await cache.load(offer, aiter(again))
        assert first.fingerprint == second.fingerprint == offer.fingerprint
        assert again.taken == 0
        assert [path.name for path in cache.folder.iterdir()] == [f"{offer.fingerprint}.safetensors"]

    @pytest.mark.parametrize("damage", [b"", b"short", "flip", "longer"])
    async def test_a_damaged_file_is_fetched_again(
        self, codec: TinyCodec, offer: CodecOffer, tmp_path: Path, damage: bytes | str
    ) -> None:
        flipped = codec.data[:-1] + bytes([codec.data[-1] ^ 1])
        damaged = {"flip": flipped, "longer": codec.data + b"\0"}.get(str(damage), damage)
        assert isinstance(damaged, bytes)
        path = tmp_path / f"{offer.fingerprint}.safetensors"
        path.write_bytes(damaged)
        table = await CodecCache(tmp_path).load(offer, aiter(Download(codec.data)))
        assert table.fingerprint == offer.fingerprint
        assert path.read_bytes() == codec.data

    async def test_bytes_of_another_hash_are_refused_and_not_kept(
        self, codec: TinyCodec, offer: CodecOffer, tmp_path: Path
    ) -> None:
        flipped = codec.data[:-1] + bytes([codec.data[-1] ^ 1])
        for data in (flipped, codec.data[:-1], b""):
            with pytest.raises(MismatchError, match="nothing was sent"):
                await CodecCache(tmp_path).load(offer, aiter(Download(data)))
        assert list(tmp_path.iterdir()) == []

    async def test_a_download_without_end_is_broken_off(
        self, codec: TinyCodec, offer: CodecOffer, tmp_path: Path
    ) -> None:
        endless = Download(codec.data * 100)
        with pytest.raises(MismatchError, match="announced"):
            await CodecCache(tmp_path).load(offer, aiter(endless))
        assert endless.taken == len(codec.data) // 512 + 1

    async def test_bytes_of_the_right_hash_that_are_no_table(self, tmp_path: Path) -> None:
        junk = b"\x10\0\0\0\0\0\0\0not a table at all"
        offer = CodecOffer(hashlib.sha256(junk).hexdigest(), len(junk))
        with pytest.raises(ArtifactError, match="table file"):
            await CodecCache(tmp_path).load(offer, aiter(Download(junk)))
        assert list(tmp_path.iterdir()) == []

    async def test_a_folder_that_cannot_be_written_is_no_obstacle(
        self, codec: TinyCodec, offer: CodecOffer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        with caplog.at_level(logging.WARNING):
            table = await CodecCache(tmp_path / "file" / "codecs").load(offer, aiter(Download(codec.data)))
        assert table.fingerprint == offer.fingerprint
        assert "not cached" in caplog.text

    async def test_a_download_is_held_twice_at_most(self, tmp_path: Path) -> None:
        junk = bytes(1 << 22)
        offer = CodecOffer(hashlib.sha256(junk).hexdigest(), len(junk))
        tracemalloc.start()
        try:
            with pytest.raises(ArtifactError):
                await CodecCache(tmp_path).load(offer, aiter(Download(junk)))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < 2.5 * len(junk)

    async def test_pieces_without_bytes_are_no_download(self, offer: CodecOffer, tmp_path: Path) -> None:
        async def nothing() -> AsyncIterator[bytes]:
            while True:
                yield b""

        with pytest.raises(MismatchError, match="announced"):
            await CodecCache(tmp_path).load(offer, nothing())

    async def test_a_server_of_ever_new_codecs_fills_no_disk(
        self, codec: TinyCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(codec_cache, "MAX_CACHE_BYTES", 3 * len(codec.data))
        cache, left = CodecCache(tmp_path), tmp_path / "left.part"
        left.write_bytes(codec.data)
        (tmp_path / "another.file").write_bytes(codec.data)
        os.utime(left, (0, 0))
        codecs = [make_codec(tmp_path / str(number), model=f"m{number}").data for number in range(5)]
        offers = [CodecOffer(hashlib.sha256(data).hexdigest(), len(data)) for data in codecs]
        names = [f"{offer.fingerprint}.safetensors" for offer in offers]
        for step, number in enumerate((0, 1, 2, 0, 3, 4), start=1):
            await cache.load(offers[number], aiter(Download(codecs[number])))
            assert (tmp_path / names[number]).stat().st_mtime > step
            os.utime(tmp_path / names[number], (step, step))
        kept = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert kept == {"another.file", names[0], names[3], names[4]}

    def test_where_it_lies(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DEL_CACHE", str(tmp_path))
        assert default_folder() == tmp_path / "codecs"
        monkeypatch.delenv("DEL_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_folder() == tmp_path / ".cache" / "del" / "codecs"

    @pytest.mark.parametrize("size", [0, MAX_CODEC_BYTES + 1])
    def test_an_offer_of_no_or_too_many_bytes(self, size: int) -> None:
        with pytest.raises(MismatchError, match=f"{size} bytes"):
            CodecOffer("a" * 64, size)

    @pytest.mark.parametrize("fingerprint", ["", "../../etc/passwd", "A" * 64, "a" * 63])
    def test_an_offer_of_no_fingerprint(self, fingerprint: str) -> None:
        with pytest.raises(MismatchError, match="fingerprint"):
            CodecOffer(fingerprint, 1)


class TestPinned:
    def test_named_files_with_the_right_hash(self, codec: TinyCodec) -> None:
        reader = load_reader(codec.table.spec, codec.tokenizer, codec.chat_template)
        assert reader.tokenizer.get_vocab_size() == 258

    def test_files_of_the_package(self, codec: TinyCodec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        make_codec(tmp_path / "a", model="other")
        (tmp_path / "a" / "tokenizer.json").write_text("{}")
        folders = [tmp_path / "a", codec.tokenizer.parent]
        monkeypatch.setattr(pinned, "codec_folders", lambda: folders)
        assert load_reader(codec.table.spec).tokenizer.get_vocab_size() == 258

    def test_another_tokenizer_is_refused(self, codec: TinyCodec, tmp_path: Path) -> None:
        other = tmp_path / "tokenizer.json"
        other.write_text(codec.tokenizer.read_text() + "\n")
        expected = codec.table.spec.tokenizer_sha256
        with pytest.raises(MismatchError, match=f"no tokenizer with SHA-256 {expected}.*--tokenizer FILE"):
            load_reader(codec.table.spec, other, codec.chat_template)

    def test_another_template_is_refused(self, codec: TinyCodec, tmp_path: Path) -> None:
        other = tmp_path / "template.jinja"
        other.write_text("{{ messages[0].content }}")
        with pytest.raises(MismatchError, match=r"no chat template with SHA-256 .*--chat-template FILE"):
            load_reader(codec.table.spec, codec.tokenizer, other)

    def test_none_at_all(self, codec: TinyCodec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pinned, "codec_folders", list)
        with pytest.raises(MismatchError, match="--tokenizer FILE"):
            load_reader(codec.table.spec)

    def test_a_model_without_a_template(self, codec: TinyCodec) -> None:
        spec = replace(codec.table.spec, chat_template_sha256="")
        spans = load_reader(spec, codec.tokenizer).text("<|im_start|>")
        assert [span.private for span in spans] == [True]
        with pytest.raises(MismatchError, match="no chat template"):
            load_reader(spec, codec.tokenizer, codec.chat_template)

    def test_files_that_cannot_be_read(self, codec: TinyCodec, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="can't be read"):
            load_reader(codec.table.spec, tmp_path / "none.json")
        junk = tmp_path / "junk.json"
        junk.write_text("{}")
        spec = replace(codec.table.spec, tokenizer_sha256=hashlib.sha256(b"{}").hexdigest())
        with pytest.raises(ArtifactError, match="parsed"):
            load_reader(spec, junk, codec.chat_template)
        junk.write_bytes(b"\xff")
        spec = replace(codec.table.spec, chat_template_sha256=hashlib.sha256(b"\xff").hexdigest())
        with pytest.raises(ArtifactError, match="not UTF-8"):
            load_reader(spec, codec.tokenizer, junk)


class TestDefaults:
    def test_the_largest_measured_mu_that_leaks_at_most_a_quarter(self, codec: TinyCodec) -> None:
        assert default_mu(codec.table.spec) == 8
        assert default_setting(codec.table.spec) == NoiseSetting.from_mu(8, DIM, 1)

    @pytest.mark.parametrize(
        "row",
        [
            Measured(9_000, 1, 251, 0),  # leaks more
            Measured(9_000, 2, 100, 0),  # at other bits
            Measured(20_000, 1, 0, 0),  # above the device's ceiling, whatever a codec claims
            Measured(900, 1, 0, 0),  # below what it was trained for
        ],
    )
    def test_else_the_lowest_trained(self, codec: TinyCodec, row: Measured) -> None:
        assert default_mu(replace(codec.table.spec, measured=(row,))) == 1

    def test_a_codec_for_weak_noise_alone_gets_no_default(self, codec: TinyCodec) -> None:
        spec = replace(codec.table.spec, mu_milli_min=20_000, measured=())
        with pytest.raises(PrivacyRefusal, match="--mu"):
            default_setting(spec)

    def test_a_setting_outside_of_the_trained_range_is_told(self, codec: TinyCodec) -> None:
        assert [range_warning(codec.table.spec, mu) for mu in (1, 8.5, 40)] == [None] * 3
        for mu in (0.9, 41):
            assert f"mu {mu} is outside of 1 to 40" in (range_warning(codec.table.spec, mu) or "")
