"""What a file's own header claims, where FFmpeg does not tell: the length it declares, and signs of a cut-off or a lie.

    first and last bytes of a file ──read_claims──> Claims(samples, sample_rate, trusted, trailing_data, unfinished)

FFmpeg clamps a WAV's length to the bytes present and guesses an MP3's from its bit rate; accounting needs the claim
itself, or the knowledge that there is none. Only a few fixed fields are read, always inside bounds; nothing here
decodes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> at most that many bytes of the file."""

_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x80000000, 0x7FFFF000)
"""data sizes that streaming writers leave in a WAV header they could not go back to: "to the end of the file"."""

_NOT_MEDIA = (
    (b"#EXTM3U", "a playlist"),
    (b"ffconcat", "a playlist"),
    (b"[playlist]", "a playlist"),
    (b"v=0", "a session description"),
    (b"<", "markup, such as an HTML page"),
    (b"{", "JSON"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)

_TAIL = 1 << 17
"""Bytes searched for the last Ogg page: a page is at most 65,307 bytes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What the header says. `samples` counts per channel at `sample_rate`, None where the header leaves it open."""

    samples: int | None = None
    sample_rate: int | None = None
    guess: bool = False
    """the header holds no length, so any duration FFmpeg reports is a guess from the bit rate."""
    trailing_data: bool = False
    """bytes follow the declared audio that are not a chunk: the header may claim too little."""
    unfinished: bool = False
    """the file ends before its format says it may: cut off by an unknown amount."""


def read_claims(read_at: ReadAt, size: int) -> Claims:
    """Claims of a file of `size` bytes. Formats that FFmpeg reports truly, and unknown ones, give an empty `Claims`."""
    head = read_at(0, 64)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return _wav(read_at, size)
    if head[:4] == b"fLaC":
        return _flac(head)
    if head[:4] == b"OggS":
        return _ogg(read_at, size)
    if head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        return _mpeg_audio(read_at, head)
    return Claims()


def looks_like_media(head: bytes) -> bool:
    """Whether the first bytes are a known signature: then what failed is the file's header, not the choice of file."""
    if head[:4] in (
        b"RIFF",
        b"RF64",
        b"fLaC",
        b"OggS",
        b"\x1a\x45\xdf\xa3",
        b"FORM",
        b".snd",
        b"caff",
        b"MAC ",
        b"wvpk",
    ):
        return True
    return head[:3] in (b"ID3", b"FLV") or head[4:8] in (b"ftyp", b"moov", b"mdat")


def name_of_text(head: bytes) -> str:
    """What a crawler most often saves under an audio name instead of audio; "" when it is something else."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for start, name in _NOT_MEDIA if head.startswith(start)), "")


def _wav(read_at: ReadAt, size: int) -> Claims:
    codec = rate = align = 0
    large = None  # the 64-bit data size of an RF64 file
    offset = 12
    for _ in range(1000):
        header = read_at(offset, 8)
        if len(header) < 8:
            return Claims()
        name, length = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"fmt ":
            fields = read_at(offset + 8, 16)
            if len(fields) == 16:
                codec, _, rate, _, align, _ = struct.unpack("<HHIIHH", fields)
        elif name == b"ds64":
            fields = read_at(offset + 8, 16)
            large = struct.unpack("<Q", fields[8:])[0] if len(fields) == 16 else None
        elif name == b"data":
            break
        offset += 8 + length + (length & 1)
    else:
        return Claims()
    if large is not None and length == 0xFFFFFFFF:
        length = large
    elif length in _UNKNOWN_SIZES:
        return Claims(guess=True)
    if codec not in (1, 3, 6, 7, 0xFFFE) or not rate or not align:
        return Claims()  # a block of an ADPCM or MP3 WAV holds more than one sample: FFmpeg's own count stands
    end = offset + 8 + length
    return Claims(
        samples=length // align, sample_rate=rate, trailing_data=_is_stray(read_at(end, 16), size - end, length)
    )


def _is_stray(head: bytes, left: int, length: int) -> bool:
    """Whether what follows the data chunk is neither a pad byte nor a chunk (LIST, id3, bext, ...)."""
    for pad in {0, length & 1}:
        name, body = head[pad : pad + 4], head[pad + 4 : pad + 8]
        if len(body) == 4 and all(32 <= byte < 127 for byte in name) and struct.unpack("<I", body)[0] <= left - pad - 8:
            return False
    return left >= 64 and any(head)  # a few stray bytes, or zero padding, are habit and not loss


def _flac(head: bytes) -> Claims:
    if len(head) < 26:
        return Claims()
    packed = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels - 1, 5 bits per sample - 1, 36 samples
    rate, samples = packed >> 44, packed & ((1 << 36) - 1)
    return Claims(samples=samples, sample_rate=rate) if samples and rate else Claims(guess=True)


def _ogg(read_at: ReadAt, size: int) -> Claims:
    """RFC 3533: the last page of a logical stream carries the end-of-stream flag, 4."""
    start = max(0, size - _TAIL)
    tail = read_at(start, _TAIL)
    at = tail.rfind(b"OggS\0")
    if at < 0 or len(tail) < at + 27:
        return Claims(unfinished=True)
    table = tail[at + 27 : at + 27 + tail[at + 26]]
    complete = len(table) == tail[at + 26] and at + 27 + len(table) + sum(table) <= len(tail)
    return Claims(unfinished=not complete or not tail[at + 5] & 4)


def _mpeg_audio(read_at: ReadAt, head: bytes) -> Claims:
    """An MP3's length is declared only by a Xing, Info or VBRI tag in its first frame."""
    offset = 0
    for _ in range(8):  # some taggers prepend a tag without removing the last
        tag = read_at(offset, 10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        offset += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    first = read_at(offset, 4096)
    if first[:4] == b"fLaC":
        return Claims()
    return Claims(guess=not any(tag in first for tag in (b"Xing", b"Info", b"VBRI")))
