"""What crosses the wire and lies on disk, byte for byte and integer for integer.

A change to any literal here breaks devices, servers and codecs that are already out there: it takes a new format
version, not a new literal. The integers were computed with exact fractions, not by the code under test.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from del_codec.bitpack import pack, unpack
from del_codec.errors import FrameError
from del_codec.frame import PrivateSegment
from del_codec.noise import NoiseSetting
from del_codec.spec import CodecSpec, Measured
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb

PAYLOADS = [
    (1, [1, 0, 1, 0, 1, 1, 0], "ac"),
    (2, [1, 0, 3, 2, 1, 3, 0], "4e70"),
    (3, [1, 4, 7, 2, 5, 7, 0], "33abc0"),
    (4, [1, 4, 7, 10, 13, 15, 0], "147adf00"),
    (5, [1, 4, 7, 10, 13, 31, 0], "090ea6fc00"),
    (6, [1, 4, 7, 10, 13, 63, 0], "0441ca37f000"),
    (7, [1, 4, 7, 10, 13, 127, 0], "021038a1bfc000"),
    (8, [1, 4, 7, 10, 13, 255, 0], "0104070a0dff00"),
]

SPEC = CodecSpec(
    model="m",
    model_sha256="0" * 64,
    dim=3,
    vocabulary=2,
    embedding_width=4,
    tokenizer_sha256="1" * 64,
    chat_template_sha256="",
    mu_milli_min=1000,
    mu_milli_max=60000,
    measured=(Measured(mu_milli=5000, bits=1, attack_success=100, retained=-20),),
)
SPEC_JSON = (
    '{"chat_template_sha256":"","dim":3,"embedding_width":4,"format":"del-codec/1",'
    '"measured":[{"attack_success":100,"bits":1,"mu_milli":5000,"retained":-20}],"model":"m",'
    f'"model_sha256":"{"0" * 64}","mu_milli_max":60000,"mu_milli_min":1000,"tokenizer_sha256":"{"1" * 64}",'
    '"vocabulary":2}'
)
TABLE_FILE = (
    b"P\x02\0\0\0\0\0\0"  # 592, the header's length
    + b'{"__metadata__":{"spec":"'
    + SPEC_JSON.replace('"', '\\"').encode()
    + b'"},"unigram_counts":{"dtype":"U32","shape":[2],"data_offsets":[0,8]},'
    + b'"latents":{"dtype":"I8","shape":[2,3],"data_offsets":[8,14]}}       '
    + bytes.fromhex("07000000 00000000 81007f 01ff40")
)


@pytest.mark.parametrize(("bits", "levels", "payload"), PAYLOADS)
def test_levels_are_packed_most_significant_bit_first_without_gaps(bits: int, levels: list[int], payload: str) -> None:
    assert pack(np.array(levels, dtype=np.uint8), bits).hex() == payload
    assert unpack(bytes.fromhex(payload), len(levels), bits).tolist() == levels


@pytest.mark.parametrize(("bits", "levels", "payload"), PAYLOADS[:-1])
def test_every_padding_bit_must_be_zero(bits: int, levels: list[int], payload: str) -> None:
    canonical = int(payload, 16)
    padding = len(payload) * 4 - len(levels) * bits
    assert padding > 0
    for place in range(padding):
        raw = (canonical | 1 << place).to_bytes(len(payload) // 2, "big")
        with pytest.raises(FrameError, match="must be zero"):
            unpack(raw, len(levels), bits)


def test_a_private_and_a_public_segment_on_the_wire() -> None:
    levels = np.array([[0, 5, 10], [15, 1, 2]], dtype=np.uint8)
    private = PrivateSegment.from_levels(levels, NoiseSetting(bits=4, scale=131072))
    request = pb.GenerateRequest(
        query_id=7,
        segments=pb.SegmentChunk(
            segments=[
                pb.Segment(
                    private=pb.PrivateSegment(
                        bits=private.setting.bits,
                        noise_scale=private.setting.scale,
                        tokens=private.tokens,
                        payload=private.payload,
                    )
                ),
                pb.Segment(public=pb.PublicSegment(token_ids=[2, 49151])),
            ]
        ),
    )
    assert request.SerializeToString(deterministic=True) == bytes.fromhex(
        "08 07"  # query 7
        " 1a 1c"  # segments, 28 bytes
        " 0a 10 0a 0e 08 04 15 00 00 02 00 18 02 22 03 05 af 12"  # private: n 4, A/c 2, 2 tokens, 05 af 12
        " 0a 08 12 06 0a 04 02 ff ff 02"  # public: 2, 49151
    )


def test_a_whole_query_in_one_message_on_the_wire() -> None:
    request = pb.GenerateRequest(
        query_id=7,
        open=pb.OpenQuery(
            codec_fingerprint=b"\xab" * 32,
            prompt_tokens=2,
            options=pb.GenerationOptions(max_new_tokens=64),
            shaping=pb.Shaping(interval_ms=250, bucket_bytes=512),
            segments=[pb.Segment(public=pb.PublicSegment(token_ids=[2, 49151]))],
            end=True,
        ),
        padding=bytes(2),
    )
    assert request.SerializeToString(deterministic=True) == bytes.fromhex(
        "08 07"  # query 7
        " 12 3c"  # open, 60 bytes
        f" 0a 20 {'ab' * 32}"  # the codec's fingerprint
        " 18 02"  # two tokens
        " 22 02 08 40"  # options: 64 new tokens
        " 32 06 10 fa 01 18 80 04"  # shaping: 250 ms, 512 bytes
        " 3a 08 12 06 0a 04 02 ff ff 02"  # public: 2, 49151
        " 40 01"  # the prompt's end
        " 7a 02 00 00"  # padding
    )
    assert pb.Shaping(tokens=3).SerializeToString() == bytes.fromhex("08 03")


@pytest.mark.parametrize(
    ("scale", "thresholds"),
    [
        (65537, [32768, 1065303677, 2130574586, 2147483648, 2164392710, 3229663619, 4294934528]),
        (88898, [564349176, 1349683599, 2135018023, 2147483648, 2159949273, 2945283697, 3730618120]),
        (131072, [1073741824, 1606385406, 2139028988, 2147483648, 2155938308, 2688581890, 3221225472]),
        (1048576, [2013265920, 2079846368, 2146426816, 2147483648, 2148540480, 2215120928, 2281701376]),
        (4294967295, [2147450880, 2147467135, 2147483390, 2147483648, 2147483906, 2147500161, 2147516416]),
    ],
)
@pytest.mark.parametrize("bits", [1, 8])
def test_thresholds_follow_from_the_scale_whatever_the_bits(bits: int, scale: int, thresholds: list[int]) -> None:
    latents = np.array([-127, -64, -1, 0, 1, 64, 127], dtype=np.int8)
    assert NoiseSetting(bits, scale).thresholds(latents).tolist() == thresholds


@pytest.mark.parametrize(
    ("mu", "dim", "bits", "scale"),
    [
        (1, 64, 1, 1050623),
        (5, 64, 1, 219717),
        (10, 64, 1, 123654),
        (20, 64, 4, 213370),
        (40, 18, 4, 84818),
        (60, 128, 8, 400074),
        (0.02, 1024, 8, 3348883189),
        (1e6, 16, 1, 65537),
    ],
)
def test_the_scale_that_a_mu_names(mu: float, dim: int, bits: int, scale: int) -> None:
    assert NoiseSetting.from_mu(mu, dim, bits).scale == scale


def test_a_table_file() -> None:
    latents = np.array([[-127, 0, 127], [1, -1, 64]], dtype=np.int8)
    counts = np.array([7, 0], dtype=np.uint32)
    assert SPEC.to_json() == SPEC_JSON
    assert LatentTable.to_bytes(SPEC, latents, counts) == TABLE_FILE
    table = LatentTable.from_bytes(TABLE_FILE)
    assert (table.spec, table.latents.tolist(), table.unigram_counts.tolist()) == (
        SPEC,
        latents.tolist(),
        counts.tolist(),
    )
    assert table.fingerprint == "0442d23eb858ced2bf4d922c670b789eaac160bca63554e340ab34a75911c35e"
    assert hashlib.sha256(TABLE_FILE).hexdigest() == table.fingerprint
