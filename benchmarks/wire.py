"""Targets of the wire: framing around packed bits, counted as the serialised messages with gRPC's five-byte prefix."""

from __future__ import annotations

from benchmarks.target import Target
from del_codec.encode import encode
from del_codec.noise import NoiseSetting
from del_codec.shipped import DEVICE_FILE, codec_folders
from del_codec.table import LatentTable
from del_codec.v1 import inference_pb2 as pb

PREFIX = 5
TOKENS = 256


def framing_share() -> float:
    """Bytes around the packed bits over the packed bits: 256 private tokens at n = 1, opened, sent and ended."""
    table = LatentTable.load(codec_folders()[0] / DEVICE_FILE)
    segment = encode(table, list(range(100, 100 + TOKENS)), NoiseSetting.from_mu(11, table.spec.dim, 1))
    private = pb.PrivateSegment(
        bits=segment.setting.bits, noise_scale=segment.setting.scale, tokens=segment.tokens, payload=segment.payload
    )
    opening = pb.OpenQuery(
        codec_fingerprint=bytes.fromhex(table.fingerprint),
        prompt_tokens=TOKENS,
        options=pb.GenerationOptions(max_new_tokens=64),
    )
    messages = [
        pb.GenerateRequest(query_id=1, open=opening),
        pb.GenerateRequest(query_id=1, segments=pb.SegmentChunk(segments=[pb.Segment(private=private)])),
        pb.GenerateRequest(query_id=1, end=pb.EndPrompt()),
    ]
    sent = sum(message.ByteSize() + PREFIX for message in messages)
    return sent / len(segment.payload) - 1


TARGETS = [Target("wire.framing_over_payload_256_tokens", 0.1, "at most", framing_share)]
