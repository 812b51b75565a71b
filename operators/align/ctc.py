"""Where CTC puts each token of a known text: the best path through its frames, in numpy.

    log_probs_SV, ids ──best_path (Viterbi)──> a place in each frame ──token_frames──> frames of each token

The result is that of torchaudio.functional.forced_align, which the recogniser's extra does not install.

Legend: S encoder frames, V vocabulary, P places of the path: blank, token, blank, token ... blank.
Source: Graves et al., Connectionist Temporal Classification, ICML 2006, section 4.1, with a maximum for the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def best_path(log_probs_SV: np.ndarray, ids: Sequence[int], blank: int = 0) -> np.ndarray | None:
    """Return where the most likely path that spells `ids` is in each frame, int64 [S]; None where no path can be.

    Place 2i + 1 is the token ids[i], the even places are the blanks around it. A path needs a frame for each token and
    one more between two alike; log-probabilities of -inf are never passed.
    """
    frames, tokens = len(log_probs_SV), len(ids)
    repeats = sum(one == other for one, other in pairwise(ids))
    if frames == 0 or frames < tokens + repeats:
        return None
    places_P = np.full(2 * tokens + 1, blank, np.int64)
    places_P[1::2] = ids
    # A token may be reached from the token before it, past the blank, unless they are alike.
    skip_P = np.zeros(len(places_P), bool)
    skip_P[3::2] = places_P[3::2] != places_P[1:-2:2]

    scores_P = np.full(len(places_P), -np.inf)
    scores_P[:2] = log_probs_SV[0, places_P[:2]]
    steps_SP = np.zeros((frames, len(places_P)), np.int8)
    for frame in range(1, frames):
        from_before_P = np.concatenate([[-np.inf], scores_P[:-1]])
        from_token_P = np.where(skip_P, np.concatenate([[-np.inf, -np.inf], scores_P[:-2]])[: len(places_P)], -np.inf)
        ways = np.stack([scores_P, from_before_P, from_token_P])
        steps_SP[frame] = ways.argmax(axis=0)
        scores_P = ways.max(axis=0) + log_probs_SV[frame, places_P]
    place = len(places_P) - 1
    if tokens and scores_P[place - 1] >= scores_P[place]:
        place -= 1
    if scores_P[place] == -np.inf:
        return None
    path_S = np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        path_S[frame] = place
        place -= int(steps_SP[frame, place])
    return path_S


def token_frames(path_S: np.ndarray) -> list[tuple[int, int]]:
    """Return the half-open stretch of frames of each token, of a path of places as `best_path` returns it."""
    tokens = (int(path_S.max(initial=0)) + 1) // 2
    return [
        (int(np.searchsorted(path_S, 2 * token + 1, "left")), int(np.searchsorted(path_S, 2 * token + 1, "right")))
        for token in range(tokens)
    ]
