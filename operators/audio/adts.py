"""Find what lies between the frames of an ADTS AAC file: FFmpeg passes it over without a word.

    bytes, as FFmpeg reads them ──headers of frames──> [(bytes of frames before it, bytes that are none), ...]

Its parser counts the bytes of frames only, so the position of a packet tells nothing of a hole in front of it.
"""

from __future__ import annotations

from collections import deque

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""How begins what is no sound and was none: what stands at the ends of a file, and between two that were joined."""

_HEADER = 7
_LONGEST_MARK = max(map(len, TAGS))


class AdtsGaps:
    """An AdtsGaps follows the headers of frames (ISO/IEC 13818-7, 6.2) while a file is read from its start."""

    def __init__(self) -> None:
        self._held = b""  # the next header, as far as it is known
        self._skip = 0  # bytes of the frame, or of the tag, that were not seen yet
        self._sound = 0  # bytes of frames so far
        self._lost = 0  # bytes since the last frame that are none
        self._in_tag = False
        self._gaps: deque[tuple[int, int]] = deque()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        data, at = self._held + data[self._skip :], 0
        self._skip = 0
        while len(data) - at >= _LONGEST_MARK:
            length = (int.from_bytes(data[at + 3 : at + 6]) >> 5) & 0x1FFF
            if data[at] == 0xFF and data[at + 1] & 0xF6 == 0xF0 and length >= _HEADER:
                self._close()
                self._sound += length
                at += length
            elif data.startswith(b"ID3", at):
                at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[at + 6 : at + 10], (21, 14, 7, 0)))
            else:
                self._in_tag = self._in_tag or (not self._lost and data.startswith(TAGS, at))
                following = data.find(b"\xff", at + 1)
                following = len(data) - _LONGEST_MARK + 1 if following < 0 else following
                following = max(following, at + 1)
                self._lost += following - at
                at = following
        self._held, self._skip = data[at:], max(0, at - len(data))

    def passed_over(self, sound: int | None) -> int:
        """Return the bytes between frames that lie before the one with `sound` bytes of frames in front of it, and were
        not returned before; None: all to the end of the file.
        """
        if sound is None:
            self._lost, self._held = self._lost + len(self._held), b""
            self._close()
        total = 0
        while self._gaps and (sound is None or self._gaps[0][0] <= sound):
            total += self._gaps.popleft()[1]
        return total

    def _close(self) -> None:
        if self._lost and not self._in_tag:
            self._gaps.append((self._sound, self._lost))
        self._lost, self._in_tag = 0, False
