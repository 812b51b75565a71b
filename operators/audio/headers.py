"""What a file's own header claims, where FFmpeg does not tell: the length it declares, and signs of a cut-off or a lie.

    first and last bytes of a file ──read_claims──> Claims(samples, sample_rate, guess, trailing_data, unfinished)

FFmpeg clamps a WAV's length to the bytes present and guesses an MP3's from its bit rate; accounting needs the claim
itself, or the knowledge that there is none. Only a few fixed fields are read, always inside bounds; nothing here
decodes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> at most that many bytes of the file."""

_PLACEHOLDERS, _NEAR = (1 << 30, 1 << 31, 1 << 32, 1 << 63, 1 << 64), 1 << 24
"""Writers that cannot go back to the header leave a size near one of these: FFFFFFFF, 7FFFFFFF less the header, sox's
7FFFF000 and 7F000000, AVI's 40000000."""

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
    """Claims are what the header says. `samples` counts per channel at `sample_rate`, None where the header leaves it
    open.
    """

    samples: int | None = None
    sample_rate: int | None = None
    guess: bool = False
    """the header holds no length, so any duration FFmpeg reports is a guess from the bit rate."""
    trailing_data: bool = False
    """bytes follow the declared audio that are not a chunk: the header may claim too little."""
    unfinished: bool = False
    """the file ends before its format says it may: cut off by an unknown amount."""
    whole: bool = False
    """all bytes that the header claims are there: what its length exceeds the audio by was never in the file."""


def read_claims(read_at: ReadAt, size: int, container: str) -> Claims:
    """Return the claims of a file of `size` bytes in a container of FFmpeg's name; none where FFmpeg reports truly."""
    names = container.split(",")
    head = read_at(0, 64)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(read_at, size)
    if head[:4] == b"fLaC":
        return _flac(head)
    if head[:4] == b"OggS":
        return _ogg(read_at, size)
    if "asf" in names:
        return _asf(read_at)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":  # silence at the start is chunks without a byte
        return Claims(whole=8 + struct.unpack("<I", head[4:8])[0] <= size)
    return _mpeg_audio(read_at, size) if "mp3" in names else Claims()


def is_placeholder(claimed: int, there: int) -> bool:
    """Return whether a size in bytes, or in a unit of at least a byte, says "unknown": none, or near a power of two
    that the bytes that are there do not come near.
    """
    return claimed == 0 or any(abs(claimed - power) <= _NEAR and there < power // 2 for power in _PLACEHOLDERS)


def looks_like_media(head: bytes) -> bool:
    """Return whether the first bytes are a known signature: then what failed is the file's header, not the choice of
    file.
    """
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
    """Return what a crawler most often saves under an audio name instead of audio; "" when it is something else."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for start, name in _NOT_MEDIA if head.startswith(start)), "")


@dataclass(frozen=True, slots=True)
class WavLayout:
    """A WavLayout says where a WAV's samples lie. `codec` and `align` are 0 where no "fmt " chunk comes before them."""

    data_at: int
    data_bytes: int | None
    """as claimed; None where the header leaves it open."""
    codec: int
    sample_rate: int
    align: int


def wav_layout(read_at: ReadAt, size: int) -> WavLayout | None:
    """Return the layout of a WAV file of `size` bytes, None when it has no data chunk."""
    codec = rate = align = 0
    large = None  # the 64-bit data size of an RF64 file
    offset = 12
    for _ in range(1000):
        header = read_at(offset, 8)
        if len(header) < 8:
            return None
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
        return None
    if large and length == 0xFFFFFFFF:
        length = large
    known = None if is_placeholder(length, size - offset) else length
    return WavLayout(offset + 8, known, codec, rate, align)


def _wav(read_at: ReadAt, size: int) -> Claims:
    layout = wav_layout(read_at, size)
    if layout is None:
        return Claims()
    if layout.data_bytes is None:
        return Claims(guess=True)
    if layout.codec not in (1, 3, 6, 7, 0xFFFE) or not layout.sample_rate or not layout.align:
        return Claims()  # a block of an ADPCM or MP3 WAV holds more than one sample: FFmpeg's own count stands
    end = layout.data_at + layout.data_bytes
    return Claims(
        samples=layout.data_bytes // layout.align,
        sample_rate=layout.sample_rate,
        trailing_data=_is_stray(read_at(end, 16), size - end, layout.data_bytes),
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


def _asf(read_at: ReadAt) -> Claims:
    """An ASF file that was sent while it was made ("broadcast") holds no length."""
    at = read_at(0, 1 << 16).find(_ASF_FILE_PROPERTIES)
    fields = read_at(at + 64, 28) if at >= 0 else b""
    if len(fields) < 28:
        return Claims(guess=True)
    play_duration, flags = struct.unpack("<Q16xI", fields)
    return Claims(guess=not play_duration or bool(flags & 1))


_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _mpeg_audio(read_at: ReadAt, size: int) -> Claims:
    """An MP3's length is declared only by the number of frames in a Xing, Info or VBRI tag of its first frame, and only
    where the tag's bytes are those of the file: an advert in front of a programme has a tag of its own."""
    offset = 0
    for _ in range(8):  # some taggers prepend a tag without removing the last
        tag = read_at(offset, 10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        offset += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    first = read_at(offset, _MP3_SEARCH)
    at = next((found.start() for found in _LENGTH_TAG.finditer(first) if _in_frame(first, found.start())), None)
    if at is None:
        return Claims(guess=True)
    if first[at : at + 4] == b"VBRI":
        frames = first[at + 14 : at + 18] if len(first) >= at + 18 else b""
        length = first[at + 10 : at + 14]
    else:
        flags = first[at + 7] if len(first) > at + 7 else 0
        frames = first[at + 8 : at + 12] if flags & 1 else b""
        length = first[at + 12 : at + 16] if flags & 3 == 3 else b""
    if not int.from_bytes(frames, "big"):
        return Claims(guess=True)
    told = int.from_bytes(length, "big")
    # FFmpeg's own bound for tags behind the audio; beyond it, it guesses.
    return Claims(guess=bool(told) and size - offset - at > told + told // 16)


def _in_frame(data: bytes, at: int) -> bool:
    """Whether a tag lies behind the header and the side information of an MPEG frame, not in some text."""
    starts = (at - 4 - side for side in (32, 17, 9) if at >= 4 + side)
    return any(data[start] == 0xFF and data[start + 1] & 0xE0 == 0xE0 for start in starts)


_MP3_SEARCH = 1 << 16
"""Bytes in which FFmpeg looks for the first frame."""
_LENGTH_TAG = re.compile(rb"Xing|Info|VBRI")
