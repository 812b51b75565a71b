"""What lies between ADTS frames is counted where it lies, in whatever pieces the file is read; tags are no holes."""

from __future__ import annotations

import random

import pytest

from operators.audio.adts import AdtsGaps


def frame(length: int) -> bytes:
    head = bytearray(b"\xff\xf1\x50\x80\x00\x1f\xfc")
    packed = length << 5
    head[3] |= packed >> 16 & 3
    head[4] = packed >> 8 & 0xFF
    head[5] |= packed & 0xE0
    return bytes(head) + bytes(length - len(head))


TAG = b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"\xff\xf1\x50\x80" * 32  # 128 bytes, among them what looks like frames
PARTS = [TAG, frame(300), frame(20), bytes(1000), frame(8), TAG, frame(500), b"\xff" * 40, frame(77)]


@pytest.mark.parametrize(
    ("end", "lost"), [(b"", 0), (bytes(333), 333), (b"TAG" + bytes(125), 0), (b"APETAGEX" + bytes(300), 0), (b"T", 1)]
)
def test_gaps_are_found_in_any_pieces(end: bytes, lost: int) -> None:
    data = b"".join(PARTS) + end
    for seed in range(20):
        draw, gaps, at = random.Random(seed), AdtsGaps(), 0
        while at < len(data):
            size = draw.choice([1, 3, 64, 700])
            gaps.feed(data[at : at + size])
            at += size
        # By the bytes of frames before each: 1,000 behind the second frame, 40 before the last.
        assert [gaps.passed_over(sound) for sound in (0, 319, 320, 328, 828, None, None)] == [
            0,
            0,
            1000,
            0,
            40,
            lost,
            0,
        ]
