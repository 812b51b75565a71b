"""How long the recordings of the sources are, before anything of them is planned.

SourceFile ──headers──> declared, or estimated ──> Length
              └─ declares nothing ──its packets──> measured
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from operators.clip import SAMPLE_RATE
from operators.errors import MachineTrouble, UserError
from operators.storage.base import AccessRefused
from operators.storage.fetch import Fetch
from pipeline.sources.files import SourceFile

if TYPE_CHECKING:
    from operators.audio.decode import Limits, Probe
    from operators.audio.isolated import IsolatedDecoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """A Length is what the headers of a file tell of it, in samples at 16 kHz.

    Both are None where the file cannot be read, or has a problem.
    """

    declared: int | None = None
    """None also where the headers declare nothing."""
    estimated: int | None = None
    measured: bool = False
    """the estimate was counted packet by packet, so that units may be cut by it"""


def probe_files(
    files: Sequence[SourceFile],
    fetch: Fetch,
    workers: int = 1,
    *,
    limits: Limits | None = None,
    timeout_seconds: float = 60.0,
    measure: bool = False,
) -> list[Length]:
    """Return the length of each file, as far as its headers tell.

    Headers only, each worker with a decoder process of its own; on S3 by ranged reads. With `measure` a file that
    declares no length is read through: a guess from its size may be off by ten, and so would be its unit. Why a file
    cannot be read is found again, and written down, when its unit is worked on. Raises StoreUnavailable and other
    UserErrors that are not of one file.
    """
    from operators.audio.isolated import IsolatedDecoder  # FFmpeg, which a plan that is there does not need

    lengths = [Length()] * len(files)
    good = [index for index, file in enumerate(files) if file.problem is None]
    todo, workers = iter(good), max(1, min(workers, math.ceil(len(good) / _LEAST_FILES)))
    taking = threading.Lock()

    def work() -> None:
        nonlocal todo
        with IsolatedDecoder(limits, timeout_seconds=timeout_seconds) as decoder:
            while True:
                with taking:
                    index = next(todo, None)
                if index is None:
                    return
                try:
                    lengths[index] = _length(files[index], fetch, decoder, measure)
                except MachineTrouble as error:
                    todo = iter([])
                    raise UserError(f"no recording can be looked at: {error}") from error
                except BaseException:
                    todo = iter([])  # nobody needs the other answers any more
                    raise

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    return lengths


_LEAST_FILES = 16
"""For each worker: to start a process takes as long as to read the headers of so many files."""


def _length(file: SourceFile, fetch: Fetch, decoder: IsolatedDecoder, measure: bool) -> Length:
    from operators.audio.decode import AudioError, FileRange

    try:
        source: Any = fetch.open(file.uri, file.member)
        if file.member and isinstance(source, str):
            source = FileRange(source, *file.member)
        found = decoder.probe(source)
        if measure and (found.declared_samples is None or _holds_more(found)):
            measured = decoder.measure(source)
            if found.declared_samples is None or measured > found.declared_samples:
                return Length(estimated=measured, measured=True)
        return Length(declared=found.declared_samples, estimated=found.estimated_samples)
    except (AudioError, FileNotFoundError, AccessRefused):
        return Length()


def _holds_more(found: Probe) -> bool:
    """Whether a header cannot be the whole file's: FLAC files end to end declare the first of them.

    What is declared takes less room than in plain PCM.
    """
    assert found.declared_samples is not None
    plain = found.declared_samples * (found.sample_rate / SAMPLE_RATE) * found.channels * 2
    return found.codec == "flac" and found.bytes > plain
