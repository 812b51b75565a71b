"""Open a media file that nobody vouches for: what may be opened, with which demuxers and decoders, and what it
declares.

    path, FileRange or file object ──open_media──> Media(container, stream, declared length) ──> probe, decode

Files come from a web crawl. FFmpeg sees only a Python file object, so it has no name to guess from and nothing else to
open:
- only demuxers of real containers are allowed; playlists and scripts (HLS, DASH, concat, SDP, image sequences, devices)
are not;
- every protocol is forbidden, and any second file that a demuxer asks for is refused;
- only audio decoders are allowed, so video is never decoded, not even to find out its format;
- FIFOs, sockets, devices and directories are refused by `stat`, before `open` could block on one or wake one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import av
import av.container

# PyAV loads these two at the first file that it opens. The isolated decoder has a memory limit by then, and a library
# that no longer fits looks like a bug instead of a too large file.
import av.subtitles.codeccontext
import av.subtitles.stream

from operators.audio.headers import Claims, is_placeholder, looks_like_media, name_of_text, read_claims
from operators.audio.links import is_chained
from operators.clip import SAMPLE_RATE
from operators.errors import MachineTrouble

REASONS = (
    "missing",  # no such file
    "not_a_file",  # a directory, FIFO, socket or device
    "permission",  # may not be read
    "read_error",  # the disk failed
    "empty_file",
    "too_large",  # over a limit of size, channels, sample rate or memory
    "not_audio",  # no demuxer knows it: HTML, text, an archive, a playlist
    "bad_header",  # a known format whose header cannot be used
    "no_audio_stream",  # a video without sound
    "unsupported_codec",
    "decode_error",  # not one frame could be decoded
    "decoder_crash",
    "decoder_timeout",
)
"""Why a whole recording cannot be read."""


class AudioError(Exception):
    """A recording that cannot be read at all: expected bad data, not a bug. `reason` is one of `REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"not a reason: {reason}")
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return AudioError, (self.reason, self.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits are bounds on what one recording may ask of us. A recording longer than `max_seconds` is used up
    to there.
    """

    max_seconds: float = 48 * 3600
    max_bytes: int = 64 << 30
    max_channels: int = 64
    min_sample_rate: int = 2_000
    max_sample_rate: int = 768_000


@dataclass(frozen=True, slots=True)
class FileRange:
    """A FileRange is `size` bytes from `offset` of a local file: a member of an uncompressed tar. `size` None: to the
    end.
    """

    path: str
    offset: int = 0
    size: int | None = None


Source = str | FileRange | BinaryIO
"""A local path, a part of a local file, or a seekable binary file object (an object store's ranged reader)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A Probe is what a recording says of itself, found without decoding it."""

    declared_samples: int | None
    """length at 16 kHz by the container's own word; None when it declares none (a bit rate guess is not a
    declaration).
    """
    estimated_samples: int
    """the same, or where it is None a guess from the bit rate, the last timestamp or the size: within a factor of ten
    or so.
    """
    codec: str
    container: str
    sample_rate: int
    """Hz, as stored."""
    channels: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """An open recording."""

    container: av.container.InputContainer
    stream: Any  # av.audio.AudioStream
    claims: Claims
    declared_samples: int | None
    view: View

    @property
    def other_tracks(self) -> int:
        """Return the audio tracks beside the one that is heard."""
        return len(self.container.streams.audio) - 1


def probe(source: Source, limits: Limits | None = None) -> Probe:
    """Read the headers of a recording.

    Raises:
        AudioError: it cannot be read; the reason says why.
    """
    limits = limits or Limits()
    with open_source(source, limits) as view:
        chained = is_chained(view.read_at, view.size)
        with open_media(view, limits) as media:
            codec = media.stream.codec_context
            declared = None if chained else media.declared_samples
            return Probe(
                declared_samples=declared,
                estimated_samples=declared or _estimated_samples(media, limits, chained),
                codec=codec.codec.canonical_name,
                container=media.container.format.name,
                sample_rate=codec.sample_rate,
                channels=codec.channels,
                bytes=view.size,
            )


@contextmanager
def open_media(view: View, limits: Limits, track: int | None = None) -> Iterator[Media]:
    """Open a recording and an audio stream of it, decoder ready: the `track`th, or the one that FFmpeg thinks best.

    Raises:
        AudioError: it cannot be read; the reason says why.
    """
    view.seek(0)
    try:
        container = av.open(
            view,
            mode="r",
            options=_OPTIONS,
            buffer_size=1 << 18,
            metadata_errors="replace",
            io_open=_refuse,
        )
    except av.FFmpegError as error:
        head = view.read_at(0, 512)
        if looks_like_media(head):
            raise AudioError("bad_header", _explain(error)) from None
        raise AudioError("not_audio", name_of_text(head) or _explain(error)) from None
    with container:
        stream = _audio_stream(container, limits, track)
        claims = read_claims(view.read_at, view.size, container.format.name)
        yield Media(
            container=container,
            stream=stream,
            claims=claims,
            declared_samples=_declared_samples(container, stream, claims, view.size, limits),
            view=view,
        )


class View:
    """A View is a bounded, seekable window on a source, as FFmpeg's reader wants it: `read` never returns more than was
    asked.
    """

    def __init__(self, source: int | BinaryIO, offset: int, size: int) -> None:
        self._source = source
        self._offset = offset
        self._at = 0
        self.size = size
        self.reached = 0
        """the farthest byte that was read: a demuxer that comes on is not lost."""
        self.watch: Callable[[bytes], None] | None = None
        """is shown what is read from now on"""

    def part(self, offset: int, size: int) -> View:
        """Return a window on a part of this one."""
        return View(self._source, self._offset + offset, size)

    def read_at(self, at: int, size: int) -> bytes:
        size = max(0, min(size, self.size - at))
        if not isinstance(
            self._source, int
        ):  # a file object: its own errors are its owner's to handle, and pass through
            self._source.seek(self._offset + at)
            return self._source.read(size)[:size]
        try:
            return _read_at(self._source, size, self._offset + at)
        except OSError as error:
            raise AudioError("read_error", error.strerror or "") from None

    def read(self, size: int) -> bytes:
        data = self.read_at(self._at, size)
        self._at += len(data)
        self.reached = max(self.reached, self._at)
        if self.watch is not None:
            self.watch(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at


@contextmanager
def open_source(source: Source, limits: Limits) -> Iterator[View]:
    """Give the bytes of a source, once they are seen to be a file's. Raises AudioError."""
    if isinstance(source, str | FileRange):
        part = source if isinstance(source, FileRange) else FileRange(source)
        descriptor = _open_regular(part.path)
        try:
            left = max(0, os.fstat(descriptor).st_size - part.offset)
            yield _checked(View(descriptor, part.offset, left if part.size is None else min(part.size, left)), limits)
        finally:
            os.close(descriptor)
    else:
        yield _checked(View(source, 0, source.seek(0, os.SEEK_END)), limits)


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows; nobody else has this descriptor
    return os.read(descriptor, size)


_FLAGS = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):  # Windows has the last alone, others all but that
    _FLAGS |= getattr(os, _name, 0)


def _open_regular(path: str) -> int:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("not_a_file", _kind(os.stat(path).st_mode))
        # O_NONBLOCK and the second look: the name may have become a FIFO since.
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("missing", "dangling link" if os.path.islink(path) else "no such file") from None
    except PermissionError as error:
        raise AudioError("permission", error.strerror or "") from None
    except OSError as error:  # a loop of links, a name too long, a failing disk
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise MachineTrouble(f"no file can be opened ({error.strerror}): raise the machine's limits") from error
        raise AudioError("read_error", error.strerror or "") from None
    except ValueError:  # a NUL byte in the name
        raise AudioError("missing", "not a file name") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AudioError("not_a_file")
    return descriptor


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
    return next((name for test, name in kinds if test(mode)), "device")


def _checked(view: View, limits: Limits) -> View:
    if view.size == 0:
        raise AudioError("empty_file")
    if view.size > limits.max_bytes:
        raise AudioError("too_large", f"{view.size} bytes")
    return view


def _audio_stream(container: av.container.InputContainer, limits: Limits, track: int | None) -> Any:
    streams = container.streams.audio
    if not streams:
        raise AudioError("no_audio_stream")
    stream = (container.streams.best("audio") or streams[0]) if track is None else streams[track]
    codec: Any = stream.codec_context
    if codec is None:
        raise AudioError("unsupported_codec")
    if codec.channels < 1 or codec.sample_rate < 1:
        raise AudioError("bad_header", f"{codec.channels} channels at {codec.sample_rate} Hz")
    check_format(codec.sample_rate, codec.channels, limits)
    if codec.codec.canonical_name in _CHECKED:
        codec.options = {"err_detect": "crccheck+explode"}
    codec.thread_count = 1  # workers are processes; a decoder's own threads would only fight them
    try:
        codec.open()
    except av.FFmpegError as error:
        raise AudioError("bad_header", _explain(error)) from None
    return stream


def check_format(sample_rate: int, channels: int, limits: Limits) -> None:
    """Refuse a stream outside the limits: AudioError bad_header (absurdly slow) or too_large."""
    if sample_rate < limits.min_sample_rate:
        raise AudioError("bad_header", f"{sample_rate} Hz")
    if channels > limits.max_channels or sample_rate > limits.max_sample_rate:
        raise AudioError("too_large", f"{channels} channels at {sample_rate} Hz")


def _declared_samples(container: Any, stream: Any, claims: Claims, size: int, limits: Limits) -> int | None:
    """The audio track's own length less its start; None where nothing but a guess, or a film's length, is to be had."""
    names = set(container.format.name.split(","))
    if claims.guess:
        return None
    if claims.samples is not None and claims.sample_rate:
        samples = -(-claims.samples * SAMPLE_RATE // claims.sample_rate)
    elif not names & _DECLARING or _is_unfinished(stream, names, size):
        return None
    elif (seconds := _track_seconds(container, stream, names)) is not None:
        samples = round(seconds * SAMPLE_RATE)
    else:
        return None
    # A claim past the limit is not believed: it would put days of audio that never was into the accounts.
    return samples if 0 < samples <= limits.max_seconds * SAMPLE_RATE else None


def _is_unfinished(stream: Any, names: set[str], size: int) -> bool:
    """Whether the header holds what a writer puts there before it knows the length."""
    codec = stream.codec_context
    if codec.name.startswith("pcm_") and codec.format is not None:
        return is_placeholder(stream.frames * codec.channels * codec.format.bytes, size) if stream.frames else False
    return "avi" in names and stream.frames > 0 and is_placeholder(stream.frames, size)


def _track_seconds(container: Any, stream: Any, names: set[str]) -> float | None:
    tick = float(stream.time_base)
    start = (stream.start_time or 0) * tick
    alone = len(container.streams) == 1
    if "matroska" in names:  # the segment's length is the longest track's; muxers may tag each track with its own
        end = _clock_seconds(stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng"))
        end = container.duration / av.time_base if end is None and alone and container.duration else end
        return None if end is None else end - start
    if stream.duration is None:
        return container.duration / av.time_base - start if alone and container.duration is not None else None
    if "asf" in names:  # one length for all streams
        return stream.duration * tick - start if alone else None
    if (
        "ogg" in names and stream.codec_context.codec.canonical_name == "opus"
    ):  # FFmpeg takes the start off for other codecs only
        return stream.duration * tick - start
    return stream.duration * tick


def _clock_seconds(clock: str | None) -> float | None:
    """Seconds of "00:00:20.023000000"."""
    try:
        hours, minutes, seconds = (clock or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _estimated_samples(media: Media, limits: Limits, chained: bool) -> int:
    """FFmpeg's figure where it has one to be believed, else what so many bytes usually hold; no more than is ever
    decoded.
    """
    size, seconds = media.view.size, (media.container.duration or 0) / av.time_base
    unfinished = _is_unfinished(media.stream, set(media.container.format.name.split(",")), size)
    if chained or unfinished or not 0 < seconds <= limits.max_seconds or size / seconds < _LEAST_BYTES:
        usual = _USUAL_VIDEO_BYTES if media.container.streams.video else _USUAL_AUDIO_BYTES
        if media.stream.codec_context.name.startswith("pcm_"):
            usual = media.stream.codec_context.sample_rate * media.stream.codec_context.channels * 2
        seconds = min(size / usual, limits.max_seconds)
    return round(seconds * SAMPLE_RATE)


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise AudioError("not_audio", "refers to another file")


def _explain(error: av.FFmpegError) -> str:
    return str(error.strerror)


_DEMUXERS = (
    "3gp,aa,aac,aax,ac3,aea,aiff,amr,amrnb,amrwb,apc,ape,aptx,aptx_hd,asf,asf_o,ast,au,avi,bonk,caf,codec2,daud,"
    "dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,gxf,hca,hcom,iff,ilbc,ircam,iss,ivf,kux,laf,lc3,live_flv,loas,matroska,"
    "mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,msf,mxf,nistsphere,nsv,nut,ogg,oma,osq,paf,pva,pvf,qcp,qoa,rka,rm,rso,sbc,"
    "sds,shn,sol,sox,spdif,tak,truehd,tta,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,wve,xa,xwma"
)
"""Containers of recorded sound or film that hold their own data. Not here, so never opened: what refers to other files
or hosts, devices, still images, subtitles, text art, game formats and headerless data that any bytes could be taken
for.
"""

_CHECKED = ("flac", "tta")
"""Codecs whose every frame carries a checksum: else damage may decode to noise that passes for sound. The checks of
lossy codecs also refuse frames that are merely unusual."""

_DECLARING = {
    "aiff",
    "ape",
    "asf",
    "au",
    "avi",
    "caf",
    "flac",
    "matroska",
    "mov",
    "mp3",
    "ogg",
    "tta",
    "w64",
    "wav",
    "wv",
}
"""Containers whose header (for Ogg the last page) states the length; elsewhere FFmpeg's figure is an estimate."""


_USUAL_AUDIO_BYTES, _USUAL_VIDEO_BYTES, _LEAST_BYTES = 8_000, 100_000, 80
"""Bytes a second of a compressed recording without and with a picture, 64 and 800 kbit/s; and less than any speech
codec makes."""


def _audio_decoders() -> list[str]:
    names = set()
    for name in av.codecs_available:
        try:
            codec = av.Codec(name, "r")
        except ValueError:  # an encoder only
            continue
        if codec.type == "audio" and codec.name != "wavesynth":  # a generator: hours of sound from a few bytes
            names.add(codec.name)
    return sorted(names)


_OPTIONS = {
    "protocol_whitelist": "none",  # the name of no protocol
    "format_whitelist": _DEMUXERS,
    "codec_whitelist": ",".join(_audio_decoders()),
}
