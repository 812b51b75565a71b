"""A cap in hours on what is trained on, for curves of error by data: less data as a smaller crawl would have it.

    clips of a domain ──recording by recording, in a seeded order──> the first of them, until the domain's share is full

Every domain keeps its share of the hours. Subsets are nested: the clips of half an hour are among those of an hour, for
one seed. Recordings are whole but for the last of each domain, since clips drawn one by one would hold nearly every
speaker and topic that there is, which less data does not.
"""

from __future__ import annotations

import numpy as np

from model_training.data.index import Index
from model_training.data.permutation import derive, shuffle
from operators.errors import UserError

FRAMES_PER_HOUR = 360_000
_ORDER = 0x4085


def within(index: Index, usable_N: np.ndarray, hours: float, seed: int, uri: str) -> np.ndarray:
    """Return which clips make up so many hours, bool [N]. Each domain is within half a clip of its share.

    A domain has at least one clip, however few the hours.

    Args:
        usable_N: bool, clips that count; others are in no subset.
        uri: of the hand-off, for messages.

    Raises:
        UserError: there are fewer hours.
    """
    frames = index.frames
    total = int(frames[usable_N].sum(dtype=np.int64))
    if hours * FRAMES_PER_HOUR > total:
        there = int(100 * total / FRAMES_PER_HOUR) / 100
        raise UserError(
            f"data.hours={hours:g}: {uri} has {there:.2f} hours that can be trained on; give at most that, or 0 for all"
        )
    chosen_N = np.zeros(len(index), bool)
    recordings = index.recordings()
    for domain in range(len(index.domain_names)):
        rows = np.flatnonzero(usable_N & (index.domain_codes == domain))
        if not len(rows):
            continue
        names, place = np.unique(recordings[rows], return_inverse=True)
        turn = shuffle(np.arange(len(names)), len(names), derive(seed, _ORDER, domain))[place]
        rows = rows[np.argsort(turn, kind="stable")]
        own = frames[rows].astype(np.int64)
        ends = np.cumsum(own)
        share = hours * FRAMES_PER_HOUR * int(ends[-1]) / total
        chosen_N[rows[: max(1, int(np.searchsorted(ends - own / 2, share)))]] = True
    return chosen_N
