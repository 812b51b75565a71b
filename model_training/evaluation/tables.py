"""Evaluations as tables in the shape of the paper's Tables 2 to 9.

    Evaluation, … ──make_tables──> Table per question ──terminal.py, page.py──> terminal, page

A column is one model at one size N (and method, where there are several), so an elastic model beside its separately
trained twins is Table 4, and one model alone is a column per size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from model_training.evaluation.charts import millions
from model_training.evaluation.comparison import Comparison, variant_name
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.intervals import Interval, Proportion
from model_training.evaluation.metrics import NO_ANSWER, ErrorRate, LabelCounts, Scores

_KINDS = ("language", "gender", "age", "emotion")
"""The attributes that come first, in this order."""
_MOST_CONFUSED = 12
CONFUSION = "said of each true label, %"
"""The end of a confusion's title."""


def in_order(kinds: Iterable[str]) -> list[str]:
    """Return attributes in the order in which they are shown."""
    return sorted(kinds, key=lambda kind: (_KINDS.index(kind) if kind in _KINDS else len(_KINDS), kind))


class Cell(NamedTuple):
    text: str = "–"
    detail: str = ""
    """Interval and count."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    cells: tuple[Cell, ...]
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    note: str
    header: str
    """Of the names."""
    across: str
    """What the columns are."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class _Variant(NamedTuple):
    evaluation: Evaluation
    n_experts: int
    method: str
    name: str

    def scores(self, set_name: str | None) -> Scores:
        """Return the scores of one set, or of all (None)."""
        if set_name is None:
            return self.evaluation.pooled(self.n_experts, self.method)
        return self.evaluation.scores(set_name, self.n_experts, self.method) or Scores()


def make_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return the tables that the evaluations have anything to say in."""
    variants = _variants(evaluations)
    sets = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.sets))
    tables = [
        _sizes(variants),
        _error_rates(
            variants,
            sets,
            "Error rate, %",
            "Han simplified, Latin upper case; one token per Han character or word: CER of Chinese, WER of English.",
            characters=False,
        ),
        _error_rates(variants, sets, "Character error rate, %", "The same texts, letter by letter.", characters=True),
        _kinds_of_errors(variants, sets),
        _languages(variants),
        *_accuracies(variants, sets),
        *_confusions(variants),
    ]
    return [table for table in tables if table.rows]


def _variants(evaluations: Sequence[Evaluation]) -> list[_Variant]:
    methods = {method for evaluation in evaluations for method in evaluation.methods}
    variants = []
    for evaluation in evaluations:
        for n_experts in evaluation.groups:
            for method in evaluation.methods:
                parts = [evaluation.model] if len(evaluations) > 1 else []
                parts.append(variant_name(n_experts, method, len(methods) > 1))
                variants.append(_Variant(evaluation, n_experts, method, " ".join(parts)))
    return variants


def _table(title: str, note: str, header: str, variants: Sequence[_Variant], rows: Sequence[Row]) -> Table:
    """Return a table without the rows that no column has a number for."""
    said = tuple(row for row in rows if any(cell != Cell() for cell in row.cells))
    return Table(title, note, header, "Model", tuple(variant.name for variant in variants), said)


def _sizes(variants: Sequence[_Variant]) -> Table:
    rows = []
    for key, name in (("total", "Parameters"), ("active", "of them active per frame")):
        counts = [variant.evaluation.parameters.get(variant.n_experts, {}).get(key) for variant in variants]
        rows.append(Row(name, tuple(Cell() if count is None else Cell(millions(count)) for count in counts)))
    return _table("Model size", "N is the number of routed experts in use.", "", variants, rows)


def _error_rates(
    variants: Sequence[_Variant], sets: Sequence[str], title: str, note: str, *, characters: bool
) -> Table:
    def cell(variant: _Variant, name: str | None) -> Cell:
        scores = variant.scores(name)
        return _rate_cell(scores.characters if characters else scores.tokens)

    rows = [Row(name, tuple(cell(variant, name) for variant in variants)) for name in sets]
    if len(sets) > 1:
        rows.append(Row("all, by tokens", tuple(cell(variant, None) for variant in variants), is_total=True))
        if not characters:
            means = [variant.evaluation.weighted_by_seconds(variant.n_experts, variant.method) for variant in variants]
            cells = tuple(Cell() if mean is None else Cell(f"{mean:.2f}") for mean in means)
            rows.append(Row("all, by duration", cells, is_total=True))
    return _table(title, note, "Test set", variants, rows)


def _kinds_of_errors(variants: Sequence[_Variant], sets: Sequence[str]) -> Table:
    def cell(rate: ErrorRate) -> Cell:
        if not rate.reference:
            return Cell()
        kinds = (rate.substitutions, rate.deletions, rate.insertions)
        return Cell(" / ".join(f"{100 * count / rate.reference:.1f}" for count in kinds))

    rows = [Row(name, tuple(cell(variant.scores(name).tokens) for variant in variants)) for name in sets]
    if len(sets) > 1:
        rows.append(Row("all", tuple(cell(variant.scores(None).tokens) for variant in variants), is_total=True))
    note = "Substituted / deleted / inserted, in percent of what was said."
    return _table("Kinds of errors, %", note, "Test set", variants, rows)


def _languages(variants: Sequence[_Variant]) -> Table:
    """Return rows and columns as in Table 8: models down, languages across."""
    counts = [variant.scores(None).attributes.get("language") for variant in variants]
    languages = sorted({label for one in counts if one is not None for label in one.labels})
    rows = []
    for variant, one in zip(variants, counts, strict=True):
        if one is None:
            continue
        confusion, cells = one.counts, []
        for language in languages:
            value = one.f1(language)
            there = sum(count for (truth, _), count in confusion.items() if truth == language)
            cells.append(Cell() if value is None else Cell(f"{value / 100:.3f}", f"n={there:,}"))
        rows.append(Row(variant.name, tuple(cells)))
    note = "Over all test sets together."
    return Table("Language identification, F1", note, "Model", "Language", tuple(languages), tuple(rows))


def _accuracies(variants: Sequence[_Variant], sets: Sequence[str]) -> list[Table]:
    """Return a table for each attribute, and one for events: a test set's accuracy as in Table 9, and what it is worth
    beside a constant answer.
    """
    kinds = in_order({kind for variant in variants for kind in variant.scores(None).attributes})
    return [_attribute(variants, sets, kind) for kind in kinds] + [_events(variants, sets)]


def _attribute(variants: Sequence[_Variant], sets: Sequence[str], kind: str) -> Table:
    rows: list[Row] = []
    for name in [*sets, None] if len(sets) > 1 else list(sets):
        counts = [variant.scores(name).attributes.get(kind) or LabelCounts() for variant in variants]
        there = next((one for one in counts if one.recordings), None)
        if there is None:
            continue
        is_total, (label, constant) = name is None, there.constant
        rows.append(Row(name or "all", tuple(_share_cell(one.accuracy) for one in counts), is_total))
        worth = "the only label here"
        if len(there.labels) > 1:
            worth = f"balanced {100 / len(there.labels):.1f}"
            rows.append(Row("  balanced", tuple(map(_balanced_cell, counts)), is_total))
        always = Cell(f"{constant.percent:.1f}", worth)
        rows.append(Row(f"  always {label}", tuple(always if one.recordings else Cell() for one in counts), is_total))
    note = (
        "Clips whose true label is known; balanced: the mean over the true labels. What always answering the most "
        "frequent label has is below. In brackets 95 % intervals, over speakers where they are known, else recordings."
    )
    # A total of a single set says the same twice.
    of_sets = [row for row in rows if not row.is_total]
    rows = of_sets if sum(not row.name.startswith(" ") for row in of_sets) == 1 else rows
    return _table(f"{kind.capitalize()}, accuracy, %", note, "Test set", variants, rows)


def _confusions(variants: Sequence[_Variant]) -> list[Table]:
    """Return for each attribute of several labels what was said where each was true, the most frequent first."""
    tables = []
    for kind in in_order({kind for variant in variants for kind in variant.scores(None).attributes}):
        counts = [(variant.scores(None).attributes.get(kind) or LabelCounts()).counts for variant in variants]
        there = [Counter[str]() for _ in variants]
        pairs: Counter[tuple[str, str]] = Counter()
        for of_variant, total in zip(counts, there, strict=True):
            pairs.update(of_variant)
            for (truth, _), count in of_variant.items():
                total[truth] += count
        truths = sorted({truth for truth, _ in pairs})
        shown = sorted(sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:_MOST_CONFUSED])
        rows = []
        for truth, said in shown if len(truths) > 1 else []:
            cells = [
                Cell(f"{100 * one.get((truth, said), 0) / total[truth]:.1f}", f"n={one.get((truth, said), 0):,}")
                if total[truth]
                else Cell()
                for one, total in zip(counts, there, strict=True)
            ]
            rows.append(Row(f"{truth}: {'no answer' if said == NO_ANSWER else said}", tuple(cells)))
        note = "Over all test sets together."
        if len(pairs) > len(shown):
            note += f" {len(pairs) - len(shown):,} pairs that are rarer are left out."
        tables.append(_table(f"{kind.capitalize()}, {CONFUSION}", note, "True: said", variants, rows))
    return tables


def _events(variants: Sequence[_Variant], sets: Sequence[str]) -> Table:
    rows = []
    names: list[str | None] = [*sets, None] if len(sets) > 1 else list(sets)
    for task in ("event", "event false alarms"):
        part = []
        for name in names:
            shares = [_share(variant.scores(name), task) for variant in variants]
            row = Row(f"{task} · {name or 'all'}", tuple(map(_share_cell, shares)), is_total=name is None)
            part += [row] if any(share.total for share in shares) else []
        rows += part if len(part) > 2 else [row for row in part if not row.is_total]
    note = "Event: all of a clip's events found and no other; false alarms: an event given where there is none."
    return _table("Sound events, %", note, "Task · test set", variants, rows)


def _share(scores: Scores, task: str) -> Proportion:
    return scores.events.accuracy if task == "event" else scores.events.false_alarms


def _rate_cell(rate: ErrorRate) -> Cell:
    if rate.percent is None:
        return Cell()
    return Cell(f"{rate.percent:.2f}", f"{_brackets(rate.interval)} n={rate.reference:,}".strip())


def _share_cell(share: Proportion) -> Cell:
    if share.percent is None:
        return Cell()
    return Cell(f"{share.percent:.1f}", f"{_brackets(share.interval)} n={share.total:,}".strip())


def _balanced_cell(counts: LabelCounts) -> Cell:
    found = counts.balanced
    return Cell() if found.percent is None else Cell(f"{found.percent:.1f}", _brackets(found.interval))


def _brackets(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval[0]:.1f}, {interval[1]:.1f}]"


def comparison_table(found: Comparison) -> Table:
    """Return what changed from one model to the other, a row for each set and task."""
    rows = []
    for change in found.changes:
        name = f"{change.task} · {change.set or 'all'}" if change.task else change.set or "all"
        low, high = change.difference.low, change.difference.high
        interval = "" if low is None or high is None else f"[{low:+.1f}, {high:+.1f}]"
        sizes = f"{change.clips:,} clips, {change.recordings:,} recordings"
        cells = (
            Cell(f"{change.first:.2f}"),
            Cell(f"{change.second:.2f}"),
            Cell(f"{change.second - change.first:+.2f}", interval),
            Cell(change.verdict, sizes),
        )
        rows.append(Row(name, cells, is_total=change.set is None))
    note = (
        f"Error rates, and accuracies where an attribute is named. {found.better:,} clips have fewer errors, "
        f"{found.worse:,} more, {found.alike:,} as many. In brackets the difference's 95 % interval, recordings drawn "
        "again for both models alike; one that holds 0 may be chance, and so may any of fewer than six recordings."
    )
    if found.unpaired:
        note += f" {found.unpaired:,} answers to clips that the other did not answer are left out."
    title = f"From {found.names[0]} to {found.names[1]}, %"
    return Table(title, note, "Test set", "", ("from", "to", "change", "that is"), tuple(rows))


def unusable_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return one line per set with clips that are in no number."""
    return list(
        dict.fromkeys(
            f"{name}: {len(clips):,} clip{'' if len(clips) == 1 else 's'} could not be used and "
            f"{'is' if len(clips) == 1 else 'are'} in no number"
            for evaluation in evaluations
            for name, clips in evaluation.unusable.items()
            if clips
        )
    )
