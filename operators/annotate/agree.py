"""Agreement: from what annotators said of a clip to what its shard says of it.

    opinions of a kind ──enough of them, and all alike──> the label ┐
    the manifest's own ──always───────────────────────────────────> ┴─> Attributes, absent where neither holds

OSUM (section 3.1) builds its labels so, by agreement of two annotators. Judged apart from what was said: all opinions
stay in the ledger, and `redecide` judges them again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from operators.annotate.annotator import tidy
from operators.clip import KINDS, Attributes, NamedOpinion


def agree(opinions: Sequence[NamedOpinion], known: Mapping[str, Any], min_opinions: int) -> Attributes:
    """Return the labels that at least `min_opinions` annotators gave and nobody who answered contradicts.

    known: what a manifest says (`manifest.known_labels`), and its `language`; it wins over every opinion. Events agree
    when the annotators name the same ones: a list that holds some of them would teach that the others are absent.
    """
    labels: dict[str, Any] = {}
    for kind in KINDS:
        if known.get(kind) is not None:
            given = known[kind]
            events = tuple(dict.fromkeys(tidy(kind, each) for each in given)) if kind == "events" else None
            labels[kind] = tidy(kind, given) or None if events is None else events
            continue
        said = [opinion.labels for opinion in opinions if opinion.kind == kind]
        if len(said) >= max(min_opinions, 1) and len(set(said)) == 1:
            labels[kind] = said[0] if kind == "events" else said[0][0]
    return Attributes(**labels)
