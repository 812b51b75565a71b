"""eval.html: an evaluation as one self-contained page that a person enjoys reading. No script, no network.

    Evaluations, Comparisons, sounds ──tables, charts, words, confusion, clips──page.html, eval.css──> bytes

Texts and names come from test sets and models and are hostile: the template escapes each (operators/page).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model_training.evaluation import charts
from model_training.evaluation.answers import Answer
from model_training.evaluation.comparison import Comparison, variant_name
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.listen import MOST_SETS, Hear, choose, sounds
from model_training.evaluation.metrics import NO_ANSWER, EventCounts, LabelCounts
from model_training.evaluation.tables import CONFUSION, Table, comparison_table, in_order, make_tables, unusable_lines
from model_training.evaluation.words import steps_of, wrong_words
from operators.page import frame
from operators.page.marks import MARKS, data_uri, marked

_TEMPLATE = Path(__file__).with_name("page.html")
_LONGEST_TEXT = 1500
_MOST_LABELS = 24
_MOST_EVENTS = 30


def to_html(
    evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison] = (), hear: Hear | None = None
) -> bytes:
    """Return the page of some models; the same arguments give the same bytes. Without `hear` no clip can be played."""
    tables = {table.title: table for table in make_tables(evaluations)}
    first = tables.pop("Error rate, %", None)
    models = list(dict.fromkeys(evaluation.model for evaluation in evaluations))
    chosen = _chosen(evaluations[0])
    listened = [(name, [each.answer for each in shown]) for name, shown in chosen]
    main = _main_comparison(evaluations, comparisons)
    changed = main.clips if main is not None else ()
    played = sounds([*(answers for _, answers in listened), [clip.first for clip in changed]], hear)
    return frame.render(
        _TEMPLATE,
        title=f"Evaluation of {' and '.join(models)}",
        style=frame.style() + _TEMPLATE.with_name("eval.css").read_text("utf-8"),
        plays_audio=True,
        filters={"count": lambda number: f"{number:,}"},
        models=models,
        headline=_headline(evaluations, comparisons),
        lede=_lede(evaluations),
        picture=charts.by_size(evaluations),
        legend=list({line.name: line.colour for line in charts.lines(evaluations)}.items()),
        kinds=_kinds(evaluations),
        errors=first,
        tables=[table for table in tables.values() if not table.title.endswith(("accuracy, %", CONFUSION))],
        comparisons=[(comparison, comparison_table(comparison)) for comparison in comparisons],
        changed=[_changed_card(clip.first, clip.second, clip.edits, main.names, played) for clip in changed]
        if main
        else [],
        words=[
            (_name(evaluation, evaluations), wrong_words(evaluation.of(*evaluation.main))) for evaluation in evaluations
        ],
        attributes=_attributes(evaluations, tables),
        events=[(_name(e, evaluations), rows) for e in evaluations if (rows := _events(e))],
        listen=[
            {
                "name": name,
                "clips": [_card(shown.place, shown.answer, shown.percent, evaluations, played) for shown in of],
            }
            for name, of in chosen
        ],
        left_out=max(0, len(evaluations[0].sets) - MOST_SETS),
        unusable=unusable_lines(evaluations),
    )


def _name(evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    """Return what the model is called at the size that stands for it."""
    size = variant_name(*evaluation.main, len(evaluation.methods) > 1)
    return f"{evaluation.model} {size}" if len(evaluations) > 1 else size


def _headline(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return the numbers that stand for all: of the largest size of each model."""
    rates = [(_name(e, evaluations), e.pooled(*e.main).tokens) for e in evaluations]
    if any(rate.percent is None for _, rate in rates):
        return None
    main = _main_comparison(evaluations, comparisons) if len(evaluations) == 2 else None
    changes = [change for change in main.changes if not change.task] if main is not None else []
    change = changes[-1] if changes else None
    return {
        "rates": [(name, f"{rate.percent:.1f} %", rate.interval) for name, rate in rates],
        "verdict": "" if change is None else change.verdict,
        "sure": change is not None and change.is_sure,
        "better": change is not None and change.is_better,
    }


def _main_comparison(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> Comparison | None:
    """Return the comparison of the first two models at the sizes that stand for them; else any."""
    wanted = tuple(evaluation.main for evaluation in evaluations[:2])
    return next((each for each in comparisons if each.variants == wanted), comparisons[0] if comparisons else None)


def _lede(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    main = evaluations[0]
    scores = [main.scores(name, *main.main) for name in main.sets]
    seconds = sum(one.seconds for one in scores if one is not None)
    return {
        "clips": sum(one.clips for one in scores if one is not None),
        "time": f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min",
        "sets": len(main.sets),
        "voices": len({answer.voice for answer in main.answers}),
        "sizes": [variant_name(n, "", False) for n in main.groups],
        "method": main.main[1],
    }


def _kinds(evaluations: Sequence[Evaluation]) -> Markup | None:
    rows = []
    for name in dict.fromkeys(name for evaluation in evaluations for name in evaluation.sets):
        for evaluation in evaluations:
            scores = evaluation.scores(name, *evaluation.main)
            if scores is not None and scores.tokens.reference:
                rows.append((f"{name} · {evaluation.model}" if len(evaluations) > 1 else name, scores.tokens))
    return charts.kinds_of_errors(rows) if rows else None


def _attributes(evaluations: Sequence[Evaluation], tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """Return each attribute with its table and the confusion of every model."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for evaluation in evaluations:
        size = evaluation.main[0]
        for method in evaluation.methods:  # CTC answers no attribute
            attributes = evaluation.pooled(size, method).attributes
            for kind, counts in attributes.items():
                found[kind].append((_name(evaluation, evaluations), _confusion(counts)))
            if attributes:
                break
    return [
        {"kind": kind, "table": tables.get(f"{kind.capitalize()}, accuracy, %"), "confusions": found[kind]}
        for kind in in_order(found)
    ]


def _confusion(counts: LabelCounts) -> dict[str, Any]:
    """Return rows of true labels and columns of answers; a cell's level is its share of the row in tenths."""
    pairs = counts.counts
    totals: Counter[str] = Counter()
    for (truth, _), count in pairs.items():
        totals[truth] += count
    labels = sorted(totals, key=lambda label: (-totals[label], label))[:_MOST_LABELS]
    given = {answer for _, answer in pairs}
    others = sorted(given - set(labels) - {NO_ANSWER})[:_MOST_LABELS]
    answers = [*labels, *others, *([NO_ANSWER] if NO_ANSWER in given else [])]
    rows: list[dict[str, Any]] = []
    for truth in labels:
        cells = []
        for answer in answers:
            count = pairs.get((truth, answer), 0)
            share = count / totals[truth]
            cells.append({"count": count, "level": round(10 * share), "percent": 100 * share, "right": truth == answer})
        rows.append({"truth": truth, "total": totals[truth], "cells": cells})
    shown = ["no answer" if answer == NO_ANSWER else answer for answer in answers]
    return {"answers": shown, "rows": rows, "left_out": len(totals) - len(labels)}


def _events(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the sound events of a model at its largest size: how often there, found, missed, given for nothing, and
    what was given instead.
    """
    counts, answers = EventCounts(), list[Answer]()
    for method in evaluation.methods:
        counts = evaluation.pooled(evaluation.main[0], method).events
        answers = evaluation.of(evaluation.main[0], method)
        if counts.events:
            break
    instead: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        truth, given = set(answer.true_events or ()), set(answer.events)
        for event in truth - given:
            instead[event].update(given - truth or {NO_ANSWER})
    rows: list[dict[str, Any]] = []
    for event in counts.events:
        found, missed = counts.found.get(event, 0), counts.missed.get(event, 0)
        first = sorted(instead[event].items(), key=lambda item: (-item[1], item[0]))[:3]
        rows.append(
            {
                "event": event,
                "there": found + missed,
                "found": found,
                "missed": missed,
                "false": counts.false.get(event, 0),
                "f1": counts.f1(event),
                "taken": [("nothing" if other == NO_ANSWER else other, count) for other, count in first],
            }
        )
    return sorted(rows, key=lambda row: (-row["there"], row["event"]))[:_MOST_EVENTS]


def _chosen(evaluation: Evaluation) -> list[tuple[str, list[Any]]]:
    """Return the clips of the largest sets to listen to."""
    by_set: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in evaluation.of(*evaluation.main):
        by_set[answer.set].append(answer)
    largest = sorted(by_set, key=lambda name: (-len(by_set[name]), name))[:MOST_SETS]
    found = [(name, choose(by_set[name])) for name in by_set if name in largest]
    return [(name, shown) for name, shown in found if shown]


def _card(
    place: str,
    answer: Answer,
    percent: float,
    evaluations: Sequence[Evaluation],
    played: Mapping[tuple[str, str], bytes],
) -> dict[str, Any]:
    others = []
    for evaluation in evaluations[1:]:
        found = next(
            (a for a in evaluation.of(*evaluation.main) if (a.set, a.clip_id) == (answer.set, answer.clip_id)), None
        )
        others += [(_name(evaluation, evaluations), found)] if found is not None else []
    return {
        "place": place,
        "percent": percent,
        "lines": _lines([(_name(evaluations[0], evaluations), answer), *others]),
        **_about(answer, played),
    }


def _changed_card(
    first: Answer, second: Answer, edits: int, names: tuple[str, str], played: Mapping[tuple[str, str], bytes]
) -> dict[str, Any]:
    return {
        "place": "",
        "edits": edits,
        "lines": _lines([(names[0], first), (names[1], second)]),
        **_about(first, played),
    }


def _about(answer: Answer, played: Mapping[tuple[str, str], bytes]) -> dict[str, Any]:
    audio = played.get((answer.set, answer.clip_id))
    return {
        "audio": None if audio is None else data_uri(audio),
        "clip_id": answer.clip_id,
        "set": answer.set,
        "voice": answer.voice,
        "language": answer.language or "",
        "seconds": answer.seconds,
        "labels": [
            (kind, truth, answer.labels.get(kind, "no answer")) for kind, truth in sorted(answer.truths.items())
        ],
        "events": None
        if answer.true_events is None
        else (", ".join(answer.true_events) or "none", ", ".join(answer.events) or "none"),
    }


def _lines(answers: Sequence[tuple[str, Answer]]) -> list[dict[str, Any]]:
    """Return the reference, and below it what each model wrote, differences marked."""
    steps = [steps_of(answer)[:_LONGEST_TEXT] for _, answer in answers]
    alone = len(answers) == 1
    said = [(MARKS[s.kind] if alone else "same", s.reference) for s in steps[0]]
    lines = [{"name": "said", "runs": marked(said)}]
    for (name, _), found in zip(answers, steps, strict=True):
        # Beside another model's, a line shows by itself what it leaves out.
        written = [(MARKS[s.kind], s.hypothesis if s.hypothesis or alone else s.reference) for s in found]
        lines.append({"name": name, "runs": marked(written)})
    return lines
