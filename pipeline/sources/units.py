"""Sources into units: a fixed order with fixed names, whatever the number of recordings.

    SourceFile + length ──sort by domain, uri──> pieces ──fill units of about 30 minutes──> Unit("podcast-000012")
                                   a recording longer than a unit: pieces with nominal edges at multiples of the unit's
                                   length

Names and contents of units depend on nothing but the sources and the plan's settings. Where a nominal edge really cuts
is found when the audio is read, at a quiet point of a window which both neighbours read.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from operators.clip import SAMPLE_RATE, Piece, Rejection, Unit
from operators.errors import UserError
from pipeline.config import LEAST_UNIT_MINUTES, MOST_UNIT_MINUTES, PlanSettings
from pipeline.sources.files import SourceFile
from pipeline.sources.probe import Length
from pipeline.sources.spill import Spill

UNKNOWN_SAMPLES = 60 * SAMPLE_RATE
"""What a recording that could not be probed counts for while units are filled."""
UNITS_OF_A_SHORT_RUN = 24
"""Units that sources are cut into at least, unless those were shorter than two minutes."""
LEAST_SAMPLES = SAMPLE_RATE
"""What every recording counts for at least: opening a file has its cost, and a unit stays bounded however short its
files are.
"""


def make_plan(files: Iterable[SourceFile], lengths: Iterable[Length], settings: PlanSettings) -> list[Unit]:
    """Return units of `unit_minutes` of raw audio, each of one domain.

    Args:
        files: every recording of the sources, those with a problem too: they travel in a unit of their domain and are
            counted.
        lengths: of each, as `probe_files` answers.
        settings: the unit's length, and how near to an edge the quiet point may lie.
    """
    with Recordings() as recordings:
        recordings.extend(zip(files, lengths, strict=True))
        return list(recordings.units(settings))


class Recordings:
    """Recordings are what a plan is made from, in bounded memory: files and lengths go in, units come out.

    A context: what does not fit into memory lies in `scratch` until it ends.
    """

    def __init__(self, scratch: str | None = None) -> None:
        self.count = 0
        self.estimated = False
        """whether any declares no length, so that its estimate is in the plan"""
        self._samples = 0
        self._domains: set[str] = set()
        self._spill: Spill[tuple[SourceFile, Length]] = Spill(_order, scratch)

    def __enter__(self) -> Recordings:
        return self

    def __exit__(self, *problem: object) -> None:
        self._spill.__exit__(*problem)

    def extend(self, found: Iterable[tuple[SourceFile, Length]]) -> None:
        """Take recordings in."""
        self._spill.extend(self._counted(found))

    def _counted(self, found: Iterable[tuple[SourceFile, Length]]) -> Iterator[tuple[SourceFile, Length]]:
        for file, length in found:
            self.count += 1
            self.estimated |= length.declared is None and length.estimated is not None
            self._samples += _samples(file.problem, length.declared, length.estimated)
            self._domains.add(file.domain)
            yield file, length

    def units(self, settings: PlanSettings) -> Iterator[Unit]:
        """Yield the units, in their order. Raises UserError for settings that contradict each other."""
        unit_samples = round(_unit_minutes(self._samples, settings) * 60 * SAMPLE_RATE)
        radius = round(settings.edge_radius_seconds * SAMPLE_RATE)
        if not 0 <= 2 * radius < unit_samples:
            raise UserError(
                "plan.edge_radius_seconds must be less than half of plan.unit_minutes: neighbouring cuts would meet"
            )
        slugs = domain_slugs(self._domains)
        for domain, members in groupby(self._spill, key=lambda pair: pair[0].domain):
            pieces = (piece for file, length in members for piece in _pieces(file, length, unit_samples, radius))
            for index, filled in enumerate(_fill(pieces, unit_samples)):
                yield Unit(unit_id=f"{slugs[domain]}-{index:06d}", domain=domain, pieces=filled)


def _order(pair: tuple[SourceFile, Length]) -> tuple[str, str]:
    return pair[0].domain, pair[0].uri


def unit_minutes(files: Iterable[SourceFile], lengths: Sequence[Length], settings: PlanSettings) -> float:
    """Return how long units of these recordings are: as set, else half an hour, less where that makes fewer than
    `UNITS_OF_A_SHORT_RUN`.

    A stage's worker has one unit at a time, so few units leave workers idle at the end. Under two minutes, though, the
    windows and batches inside a unit are no longer full.
    """
    pairs = zip(files, lengths, strict=True)
    return _unit_minutes(
        sum(_samples(file.problem, length.declared, length.estimated) for file, length in pairs), settings
    )


def _unit_minutes(samples: int, settings: PlanSettings) -> float:
    if settings.unit_minutes is not None:
        return settings.unit_minutes
    shared_out = samples / SAMPLE_RATE / 60 / UNITS_OF_A_SHORT_RUN
    return min(max(shared_out, LEAST_UNIT_MINUTES), MOST_UNIT_MINUTES)


def _pieces(file: SourceFile, length: Length, unit_samples: int, radius: int) -> Iterator[Piece]:
    recording = file.recording()
    estimated = length.estimated if length.declared is None else None
    # A guess cuts nothing: an edge past the true end would be a piece of nothing.
    known = length.declared or (length.estimated if length.measured else None) or 0
    # The whole window of an edge lies inside the recording, so the last piece is a radius to a unit and a radius long.
    edges = range(unit_samples, known - radius, unit_samples)
    starts = [0, *edges]
    for start, end in zip(starts, [*edges, None], strict=True):
        yield Piece(
            recording=recording,
            start=start,
            end=end,
            declared_samples=length.declared,
            estimated_samples=estimated,
            member=file.member,
            problem=file.problem,
        )


def _fill(pieces: Iterable[Piece], unit_samples: int) -> Iterator[tuple[Piece, ...]]:
    """Yield pieces in their order, as many to a unit as fit; one that does not fit even alone is a unit."""
    filling: list[Piece] = []
    filled = 0
    for piece in pieces:
        weight = _weight(piece)
        if filling and filled + weight > unit_samples:
            yield tuple(filling)
            filling, filled = [], 0
        filling.append(piece)
        filled += weight
    if filling:
        yield tuple(filling)


def _weight(piece: Piece) -> int:
    return _samples(piece.problem, piece.end, piece.declared_samples, piece.estimated_samples, start=piece.start)


def _samples(problem: Rejection | None, *ends: int | None, start: int = 0) -> int:
    """What a file, or its part from `start`, counts for: to the first end that is known, a second where it is
    refused.
    """
    if problem is not None:
        return LEAST_SAMPLES
    return max(LEAST_SAMPLES, next((end for end in ends if end is not None), UNKNOWN_SAMPLES) - start)


def domain_slugs(domains: Iterable[str]) -> dict[str, str]:
    """Return a name for each domain that is safe in a path and as an S3 key, and belongs to no other of these domains.

    Letters and digits of every script stay (访谈 is 访谈), in lower case as some disks cannot tell "A" from "a"; the
    rest becomes "-". Where two domains would share a slug, the one that is spelled like it keeps it; the others get a
    hash.
    """
    distinct = sorted(set(domains))
    sharing: dict[str, list[str]] = defaultdict(list)
    for domain in distinct:
        sharing[_slug(domain)].append(domain)
    slugs = {domain: slug for slug, group in sharing.items() for domain in group if group == [domain] or domain == slug}
    taken = set(slugs.values())
    for domain in distinct:
        if domain not in slugs:
            digest = hashlib.sha256(domain.encode()).hexdigest()
            slug = next(name for length in range(8, 65) if (name := f"{_slug(domain)}-{digest[:length]}") not in taken)
            slugs[domain] = slug
            taken.add(slug)
    return slugs


def _slug(domain: str) -> str:
    kept = [c if _is_word(c) else "-" for c in unicodedata.normalize("NFKC", domain[:1000]).lower()]
    words = [word for word in "".join(kept).split("-") if word]
    return "-".join(words)[:32].strip("-") or "domain"


def _is_word(character: str) -> bool:
    # Marks are letters' vowels in many scripts.
    return character == "_" or unicodedata.category(character)[0] in "LMN"
