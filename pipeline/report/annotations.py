"""What a report says of attributes and of quality: counts that add up, folded from ledgers of annotated runs.

    opinions, agreed labels, quality of a batch of clips ──count──> Annotations per domain ──plus──> of the run
    Annotations ──AnnotatorPair──> Cohen's kappa, the table of two annotators      ──warnings──> lines for people

All work on rows is columnar, as in retention.py. Events of a clip count one by one in the distribution, and all
together where two annotators are compared, because they agree as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.clip import KINDS
from pipeline.report.columns import codes

QUALITY_EDGES: dict[str, np.ndarray] = {
    "snr_db": np.arange(-10, 62.5, 2.5),
    "bandwidth_hz": np.arange(1000, 8001, 250),
    "clipped": np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1]),
    "dnsmos_ovrl": np.arange(1.1, 5, 0.1).round(1),
}
"""Bin i of a measure holds what is at least edge i-1 and below edge i, the first all below, the last the rest."""

ANNOTATION_COLUMNS = ("opinions", "agreed_language", "age", "gender", "emotion", "style", "events", *QUALITY_EDGES)
"""What is read of a ledger besides FOLD_COLUMNS, of annotated runs only."""

NO_EVENTS = "(none)"
LOW_KAPPA, LARGE_SHARE, FEWEST_CLIPS = 0.2, 0.95, 20
"""Below, above, and from how many clips on a warning is given."""

ATTRIBUTE_COLUMN = {kind: "agreed_language" if kind == "language" else kind for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """Annotations count what was found of the clips of a domain, kept or rejected by Annotate itself."""

    clips: int = 0
    labels: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(kind, label) -> clips whose shard says so, or would."""
    agreed: Mapping[str, int] = field(default_factory=dict)
    """kind -> clips with a label, or with events known."""
    answered: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """(kind, number of annotators that had an opinion) -> clips."""
    pairs: Mapping[tuple[str, str, str, str, str], int] = field(default_factory=dict)
    """(kind, annotator, another, label, the other's label) -> clips."""
    quality: Mapping[str, np.ndarray] = field(default_factory=dict)
    """measure -> int64 [bins, 2, 2]: kept or rejected, clips or samples."""

    def plus(self, other: Annotations) -> Annotations:
        def both(name: str) -> dict[Any, int]:
            return dict(Counter(getattr(self, name)) + Counter(getattr(other, name)))

        quality = {
            name: self.quality[name] + other.quality[name]
            if name in self.quality and name in other.quality
            else self.quality.get(name, other.quality.get(name))
            for name in {**self.quality, **other.quality}
        }
        return Annotations(
            clips=self.clips + other.clips,
            labels=both("labels"),
            agreed=both("agreed"),
            answered=both("answered"),
            pairs=both("pairs"),
            quality=quality,  # type: ignore[arg-type]
        )

    def kinds(self) -> list[str]:
        """Return the kinds that anybody said something of."""
        return [kind for kind in KINDS if self.agreed.get(kind) or any(asked == kind for asked, _ in self.answered)]

    def distribution(self, kind: str) -> list[tuple[str, int]]:
        """Return the labels of a kind with their clips, the commonest first."""
        found = [(label, count) for (of, label), count in self.labels.items() if of == kind]
        return sorted(found, key=lambda each: (-each[1], each[0]))

    def opinions(self, kind: str, least: int) -> int:
        """Return the clips of which at least so many annotators had an opinion of a kind."""
        return sum(count for (of, number), count in self.answered.items() if of == kind and number >= least)

    def annotator_pairs(self) -> list[AnnotatorPair]:
        """Return each two annotators that spoke of the same kind, in the order of KINDS."""
        tables: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {}
        for (kind, first, second, label, other), count in sorted(self.pairs.items()):
            tables.setdefault((kind, first, second), {})[label, other] = count
        found = [AnnotatorPair(kind=kind, first=a, second=b, table=table) for (kind, a, b), table in tables.items()]
        return sorted(found, key=lambda pair: (KINDS.index(pair.kind), pair.first, pair.second))

    def warnings(self) -> list[str]:
        """Return in plain words what looks wrong: annotators that hardly agree, a label that nearly all clips have."""
        lines = []
        for pair in self.annotator_pairs():
            kappa = pair.kappa
            if pair.clips >= FEWEST_CLIPS and kappa is not None and kappa < LOW_KAPPA:
                lines.append(
                    f"{pair.kind}: {pair.first} and {pair.second} agree hardly more than by chance "
                    f"(kappa {kappa:.2f}): what they agree on is worth little"
                )
        for kind in self.kinds():
            known = self.agreed.get(kind, 0)
            for label, count in self.distribution(kind)[:1]:
                if known >= FEWEST_CLIPS and count > LARGE_SHARE * known:
                    lines.append(
                        f"{kind}: {100 * count / known:.1f} % of the labelled clips are {label}: "
                        "do the annotators know the others?"
                    )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "clips": self.clips,
            "attributes": {
                kind: {
                    "labels": dict(self.distribution(kind)),
                    "answered": self.opinions(kind, 1),
                    "answered_by_two": self.opinions(kind, 2),
                    "agreed": self.agreed.get(kind, 0),
                    "yield_percent": 100 * self.agreed.get(kind, 0) / self.clips if self.clips else None,
                }
                for kind in self.kinds()
            },
            "annotators": [pair.to_json() for pair in self.annotator_pairs()],
            "quality": {
                name: {
                    "edges": QUALITY_EDGES[name].tolist(),
                    "kept": {"clips": counts[:, 0, 0].tolist(), "samples": counts[:, 0, 1].tolist()},
                    "rejected": {"clips": counts[:, 1, 0].tolist(), "samples": counts[:, 1, 1].tolist()},
                }
                for name, counts in self.quality.items()
            },
            "warnings": self.warnings(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatorPair:
    """An AnnotatorPair is two annotators and the clips of which both had an opinion of a kind."""

    kind: str
    first: str
    second: str
    table: Mapping[tuple[str, str], int]
    """(label, the other's label) -> clips."""

    @property
    def clips(self) -> int:
        return sum(self.table.values())

    @property
    def agreement(self) -> float:
        """Return the share of the clips of which both said the same, 0-1."""
        return sum(count for (label, other), count in self.table.items() if label == other) / self.clips

    @property
    def kappa(self) -> float | None:
        """Return Cohen's kappa (1960): agreement beyond what their shares of labels give by chance; None where chance
        gives all of it.
        """
        first, second = Counter[str](), Counter[str]()
        for (label, other), count in self.table.items():
            first[label] += count
            second[other] += count
        chance = sum(first[label] * second[label] for label in first) / self.clips**2
        return None if chance >= 1 else (self.agreement - chance) / (1 - chance)

    @property
    def labels(self) -> list[str]:
        """Return the labels of both, the commonest first."""
        counts = Counter[str]()
        for (label, other), count in self.table.items():
            counts.update({label: count})
            counts.update({other: count})
        return sorted(counts, key=lambda label: (-counts[label], label))

    def to_json(self) -> dict[str, Any]:
        table = [[label, other, count] for (label, other), count in sorted(self.table.items())]
        return {
            "kind": self.kind,
            "first": self.first,
            "second": self.second,
            "clips": self.clips,
            "agreement_percent": 100 * self.agreement,
            "kappa": self.kappa,
            "table": table,
        }


def annotations_by(clips: pa.Table, by: str) -> dict[str, Annotations]:
    """Return the annotations of each value of a column. `clips` has ANNOTATION_COLUMNS, `outcome` and `samples`."""
    asked = clips.filter(pc.is_valid(clips["opinions"])).combine_chunks()
    group, names = codes(asked[by])
    return {name: _of(asked.filter(pa.array(group == number))) for number, name in enumerate(names)}


def _of(clips: pa.Table) -> Annotations:
    labels, agreed = Counter[tuple[str, str]](), Counter[str]()
    for kind, column in ATTRIBUTE_COLUMN.items():
        values = clips[column].combine_chunks()
        agreed[kind] = len(values) - values.null_count
        if kind == "events":
            labels[kind, NO_EVENTS] = int(pc.sum(pc.equal(pc.list_value_length(values), 0)).as_py() or 0)
            values = pc.list_flatten(values)
        for found in pc.value_counts(values.drop_null()).to_pylist():
            labels[kind, found["values"]] += found["counts"]
    answered, pairs = _opinions(clips["opinions"])
    return Annotations(
        clips=len(clips),
        labels={key: count for key, count in labels.items() if count},
        agreed={kind: count for kind, count in agreed.items() if count},
        answered=answered,
        pairs=pairs,
        quality=dict(_quality(clips)),
    )


def _opinions(
    column: pa.ChunkedArray,
) -> tuple[dict[tuple[str, int], int], dict[tuple[str, str, str, str, str], int]]:
    """Return the counts `answered` and `pairs` of Annotations from a column of opinions without nulls."""
    opinions = column.combine_chunks()
    clip = pc.list_parent_indices(opinions).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = pc.list_flatten(opinions)
    if not len(flat):
        return {}, {}
    kind, kinds = codes(flat.field("kind"))
    annotator, annotators = codes(flat.field("annotator"))
    label, labels = codes(pc.binary_join(flat.field("labels"), "+"))
    labels = [name or NO_EVENTS for name in labels]
    answered: dict[tuple[str, int], int] = {}
    pairs: dict[tuple[str, str, str, str, str], int] = {}
    for number, name in enumerate(kinds):
        mine = kind == number
        said = np.full((len(opinions), len(annotators)), -1, np.int64)
        said[clip[mine], annotator[mine]] = label[mine]
        for count, found in zip(*np.unique((said >= 0).sum(1), return_counts=True), strict=True):
            if count:
                answered[name, int(count)] = int(found)
        for a, b in combinations(range(len(annotators)), 2):
            first, second = sorted((a, b), key=lambda at: annotators[at])
            both = (said[:, a] >= 0) & (said[:, b] >= 0)
            cells = said[both, first] * len(labels) + said[both, second]
            for cell, found in zip(*np.unique(cells, return_counts=True), strict=True):
                one, other = divmod(int(cell), len(labels))
                pairs[name, annotators[first], annotators[second], labels[one], labels[other]] = int(found)
    return answered, pairs


def _quality(clips: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    rejected = np.asarray(pc.equal(clips["outcome"], "rejected"), dtype=np.int64)
    samples = clips["samples"].to_numpy()
    for name, edges in QUALITY_EDGES.items():
        values = pc.fill_null(clips[name], float("nan")).to_numpy()
        known = ~np.isnan(values)
        if known.any():
            bins = len(edges) + 1
            cell = np.searchsorted(edges, values[known], side="right") * 2 + rejected[known]
            both = (
                np.bincount(cell, minlength=2 * bins),
                np.bincount(cell, weights=samples[known], minlength=2 * bins),
            )
            yield name, np.stack(both, axis=-1).astype(np.int64).reshape(bins, 2, 2)
