"""Find the recordings that one file holds end to end: chained Ogg, and what `cat` makes of WAV, AIFF and MP4 files.

    file ──headers of pages, chunks, boxes──> [(offset, size), ...]     one for nearly every file

Demuxers stop after the first, or decode the second with the codec of the first. Each link is opened on its own instead.
Formats that are read on by themselves (MPEG, ADTS, FLAC, Matroska, transport streams) need no links. Nothing here
decodes, and every read is bounded.
"""

from __future__ import annotations

import re
import struct

from operators.audio.headers import ReadAt, wav_layout

Link = tuple[int, int]
"""(offset, size) in bytes."""

_MOST_LINKS = 10_000
_FEW_BOXES = 64
"""A fragmented MP4 has thousands, and on S3 each may cost a request."""
_BLOCK = 1 << 20
_FIRST_PAGE = re.compile(rb"OggS\0[\2\3\6\7]\0{8}")
"""The page that begins a logical stream: flag 2, granule position 0 (RFC 3533)."""
_PAGE_HEADER = 27


def find_links(read_at: ReadAt, size: int, most_boxes: int = 100_000) -> list[Link]:
    """Return the links of a file of `size` bytes in order; they cover it. An Ogg file is read through once, of an MP4
    file the headers of its first `most_boxes` boxes.
    """
    head = read_at(0, 12)
    if head[:4] == b"OggS":
        starts = _ogg_starts(read_at, size)
    elif head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        starts = _wav_starts(read_at, size)
    elif head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        starts = _aiff_starts(read_at, size)
    elif head[4:8] == b"ftyp":
        starts = _mp4_starts(read_at, size, most_boxes)
    else:
        starts = [0]
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def is_chained(read_at: ReadAt, size: int) -> bool:
    """Return whether a file holds several links, as far as a few reads tell: an Ogg file is not read through."""
    if read_at(0, 4) != b"OggS":
        return len(find_links(read_at, size, _FEW_BOXES)) > 1
    serials, at = set(), 0
    while (page := read_at(at, _PAGE_HEADER))[:4] == b"OggS" and len(page) == _PAGE_HEADER and page[5] & 2:
        serials.add(page[14:18])
        at += _page_bytes(read_at, at)
    tail = read_at(max(0, size - (1 << 17)), 1 << 17)
    last = tail.rfind(b"OggS\0")
    return last >= 0 and len(tail) >= last + 18 and tail[last + 14 : last + 18] not in serials


def _ogg_starts(read_at: ReadAt, size: int) -> list[int]:
    starts = [0]
    follows = 0
    """where a page that begins a stream of the same link would lie: all of them stand at its head, in a row"""
    for at in range(0, size, _BLOCK):
        block = read_at(at, _BLOCK + 16)
        for match in _FIRST_PAGE.finditer(block):
            place = at + match.start()
            if match.start() >= _BLOCK:
                break
            if place != follows and len(starts) < _MOST_LINKS:
                starts.append(place)
            follows = place + _page_bytes(read_at, place)
    return starts


def _page_bytes(read_at: ReadAt, at: int) -> int:
    header = read_at(at, _PAGE_HEADER + 255)
    segments = header[26] if len(header) >= _PAGE_HEADER else 0
    return _PAGE_HEADER + segments + sum(header[_PAGE_HEADER : _PAGE_HEADER + segments])


def _wav_starts(read_at: ReadAt, size: int) -> list[int]:
    starts = [0]
    while len(starts) < _MOST_LINKS:
        start = starts[-1]
        layout = wav_layout(lambda at, count, start=start: read_at(start + at, count), size - start)  # type: ignore[misc]
        if layout is None or layout.data_bytes is None:
            break
        end = start + layout.data_at + layout.data_bytes
        # Tags may stand behind the samples; another file does not stand behind those, but for a pad byte.
        found = _after_chunks(read_at, end, size, (b"RIFF", b"RF64", b"BW64"), (b"WAVE",))
        if found is None:
            break
        starts.append(found)
    return starts


def _after_chunks(
    read_at: ReadAt, at: int, size: int, heads: tuple[bytes, ...], kinds: tuple[bytes, ...]
) -> int | None:
    """Where a file of one of these kinds begins behind `at`, chunks of the file before it passed over."""
    for _ in range(100):
        for pad in (0, 1):
            head = read_at(at + pad, 12)
            if head[:4] in heads and head[8:12] in kinds:
                return at + pad
        head = read_at(at, 8)
        if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
            return None
        length = struct.unpack("<I", head[4:])[0]
        at += 8 + length + (length & 1)
        if at >= size:
            return None
    return None


def _aiff_starts(read_at: ReadAt, size: int) -> list[int]:
    starts = [0]
    while len(starts) < _MOST_LINKS:
        start = starts[-1]
        length = struct.unpack(">I", read_at(start + 4, 4))[0]
        places = [start + 8 + length + pad for pad in (0, 1)]
        heads = [read_at(place, 12) for place in places]
        good = [p for p, h in zip(places, heads, strict=True) if h[:4] == b"FORM" and h[8:12] in (b"AIFF", b"AIFC")]
        if not good:
            break
        starts.append(good[0])
    return starts


def _mp4_starts(read_at: ReadAt, size: int, most_boxes: int) -> list[int]:
    """A file begins at an `ftyp` once the one before it has had its `moov` and some `mdat`."""
    starts, at, seen = [0], 0, set[bytes]()
    for _ in range(most_boxes):
        box = read_at(at, 16)
        if len(box) < 8:
            break
        length, name = struct.unpack(">I", box[:4])[0], box[4:8]
        if name == b"ftyp" and {b"moov", b"mdat"} <= seen:
            starts.append(at)
            seen = set()
        seen.add(name)
        if length == 1 and len(box) == 16:
            length = struct.unpack(">Q", box[8:])[0]
        if length < 8 or at + length >= size:
            break
        at += length
    return starts
