"""`score`: how good are the labels of a run? Engines, kept labels and the filter between them against a truth file.

    truth file ─┐
    ledgers ────┴─count──> sums ──scopes, curve──> Score ──> terminal, score.json, score.html

score.json, schema 1. Rates and shares are percent. A *figure* is {"value", "low", "high"}: low and high are its 95 %
interval, drawn by recording; each is null where it cannot be told.

    schema_version, ledgers, headline
    units, units_done       of the run's plan, and how many of them have a ledger; both null where the run has no plan
    question        what was asked: "limits" (a transcript is right when its mixed-token error rate is within), "form"
                    ("evaluation" or "spoken"), "tolerance_seconds", "silence_seconds", "seed"
    thresholds      the agreement rule of the run: "max_wer", "max_per", "drop_when"
    engines[]       {"system", "names"[]}: which engines were the asr, the copilot, ...
    coverage[]      {"domain", "placement", "clips", "samples"}; placements: "scored", and why the others are not:
                    "unheard" (rejected before any engine), "no_truth" (of the recording), "no_text" (of a segment),
                    "cut" (holds a part of a segment), "overlapping" (two voices at once)
    unalignable_percent    cut and overlapping, of these and the scored
    total, domains[], languages[]    pipeline/score/figures.py Scope, as it is there
    curves          {"wer", "per"}: CurvePoint[] while that limit changes and the other stays
    wrong_labels[]  the worst kept labels, beside the truth
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import locate
from pipeline import ledger, recipe
from pipeline.config import Settings
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_factor, human_percent, human_time, printable
from pipeline.plan import PLAN_KEY, load_plan
from pipeline.report.write import Thresholds
from pipeline.score.counts import SCORE_COLUMNS, UNSCORED, Question, Tallied, count
from pipeline.score.figures import CurvePoint, ErrorRates, Figure, Scope, curve, scopes
from pipeline.score.truth import Slack, read_truth

SCHEMA_VERSION = 1
PLACEMENTS = {
    "unheard": "rejected before any engine heard them",
    "no_truth": "of recordings without truth",
    "no_text": "over segments without text",
    "cut": "cut through a segment",
    "overlapping": "with two voices at once",
}
"""Why a clip cannot be scored, in plain words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """All that `score` found out about a run."""

    ledgers: int
    question: Question
    seed: int
    thresholds: Thresholds
    engines: tuple[tuple[str, ...], ...]
    coverage: dict[tuple[str, str], tuple[int, int]]
    total: Scope
    domains: tuple[Scope, ...]
    languages: tuple[Scope, ...]
    over_wer: tuple[CurvePoint, ...]
    over_per: tuple[CurvePoint, ...]
    wrong_labels: tuple[dict[str, Any], ...]
    units: int | None = None
    """of the run's plan; None: it has none."""
    units_done: int | None = None

    @property
    def placed(self) -> dict[str, tuple[int, int]]:
        """Clips and samples by placement, over all domains."""
        sums: dict[str, tuple[int, int]] = dict.fromkeys(("scored", *UNSCORED), (0, 0))
        for (_, placement), (clips, samples) in self.coverage.items():
            sums[placement] = (sums[placement][0] + clips, sums[placement][1] + samples)
        return sums

    @property
    def unalignable(self) -> float:
        """Percent of the clips with a written truth that its segments do not fit."""
        clips = Counter({placement: clips for placement, (clips, _) in self.placed.items()})
        lost = clips["cut"] + clips["overlapping"]
        return 100 * lost / (lost + clips["scored"])

    def to_json(self) -> dict[str, Any]:
        slack = self.question.slack
        return {
            "schema_version": SCHEMA_VERSION,
            "ledgers": self.ledgers,
            "units": self.units,
            "units_done": self.units_done,
            "headline": headline(self.total),
            "question": {
                "limits": list(self.question.limits),
                "form": "spoken" if self.question.spoken else "evaluation",
                "tolerance_seconds": slack.tolerance / SAMPLE_RATE,
                "silence_seconds": slack.silence / SAMPLE_RATE,
                "seed": self.seed,
            },
            "thresholds": asdict(self.thresholds),
            "engines": [
                {"system": system.name, "names": list(names)}
                for system, names in zip(self.total.systems[1:], self.engines, strict=True)
            ],
            "coverage": [
                {"domain": domain, "placement": placement, "clips": clips, "samples": samples}
                for (domain, placement), (clips, samples) in self.coverage.items()
            ],
            "unalignable_percent": self.unalignable,
            "total": asdict(self.total),
            "domains": [asdict(scope) for scope in self.domains],
            "languages": [asdict(scope) for scope in self.languages],
            "curves": {
                "wer": [asdict(point) for point in self.over_wer],
                "per": [asdict(point) for point in self.over_per],
            },
            "wrong_labels": list(self.wrong_labels),
        }


def question(right: str, tolerance: float, silence: float, *, spoken: bool) -> Question:
    """What the command line asks: `right` as in "0,5,10", tolerances in seconds. Raises UserError."""
    try:
        limits = tuple(sorted({float(each) for each in right.split(",")}))
    except ValueError:
        raise UserError(f"--right {right}: expected percentages with commas between, for example 0,5,10") from None
    if not (math.isfinite(tolerance) and math.isfinite(silence)):
        raise UserError("--tolerance and --silence are seconds")
    slack = Slack(tolerance=round(tolerance * SAMPLE_RATE), silence=round(silence * SAMPLE_RATE))
    return Question(limits=limits, slack=slack, spoken=spoken)


def score(settings: Settings, store: Store, truth_uri: str, question: Question, seed: int = 0) -> Score:
    """Score a run by the truth file at a path or s3:// URI. Raises UserError."""
    if seed < 0:
        raise UserError("--seed is a whole number from 0")
    truth_store, key = locate(truth_uri, settings.s3)
    if not truth_store.exists(key):
        raise UserError(f"no truth file {truth_uri}: give a JSONL file with a line per recording, local or s3://")
    truth = read_truth(truth_store.read(key), truth_uri)
    rules = settings.rover
    normaliser = recipe.normaliser(settings.text)
    tallied = count(ledger.ledgers(store, SCORE_COLUMNS), truth, question, rules, normaliser)
    thresholds = Thresholds(max_wer=rules.max_wer, max_per=rules.max_per, drop_when=rules.drop_when)
    found = summarise(tallied, question, thresholds, seed)
    if not store.exists(PLAN_KEY):
        return found
    units = load_plan(store)
    return replace(found, units=len(units), units_done=len(units) - len(ledger.to_do(units, store)))


def summarise(tallied: Tallied, question: Question, thresholds: Thresholds, seed: int = 0) -> Score:
    """Everything that can be said of what was counted."""
    total, domains, languages = scopes(tallied, question.limits, seed)
    rule = (thresholds.max_wer, thresholds.max_per, thresholds.drop_when)
    return Score(
        ledgers=tallied.ledgers,
        question=question,
        seed=seed,
        thresholds=thresholds,
        engines=tallied.engines,
        coverage=tallied.coverage,
        total=total,
        domains=tuple(domains),
        languages=tuple(languages),
        over_wer=curve(tallied, "wer", *rule),
        over_per=curve(tallied, "per", *rule),
        wrong_labels=tuple(asdict(wrong) for wrong in tallied.wrong_labels),
    )


def write_score(store: Store, found: Score, console: Console) -> None:
    """Print the score, and write score.json and score.html into the run; the same run gives the same bytes."""
    from pipeline.score.page import render_page

    document = (json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n").encode()
    page, table = render_page(found), render_terminal(found)
    store.put("score.json", document)
    store.put("score.html", page)
    console.print(table)
    console.print(f"\nscore: {store.url('score.html')}", highlight=False, soft_wrap=True)


def headline(total: Scope) -> str:
    """The central claim in one line: do two engines that agree err less than the better one alone?"""
    kept, alone = total.systems[0].kept, next(system for system in total.systems if system.name == total.better).all
    if not kept.clips:
        return "no kept label can be scored"
    if kept.cer.value is None or alone.cer.value is None:
        return "no speech was said in the clips that can be scored: there is no error rate"
    against = f"the better engine alone over all clips ({total.better}: {error_rate(alone.cer)})"
    if kept.cer.value == 0:
        return f"kept labels have no error in {kept.characters:,} characters, against {against}"
    factor = total.lower_by.value or 0.0
    if 0.95 <= factor < 1.05:
        return f"kept labels have the same CER ({error_rate(kept.cer)}) as {against}"
    change = (
        f"{human_factor(factor)} lower" if factor > 1 else f"{human_factor(1 / factor)} higher" if factor else "higher"
    )
    return f"kept labels have {change} CER ({error_rate(kept.cer)}) than {against}"


def error_rate(figure: Figure) -> str:
    """Percent with the digits that an error rate needs."""
    if figure.value is None:
        return "–"
    return f"{_short(figure.value)} %"


def interval(figure: Figure) -> str:
    """The 95 % interval, "" where there is none."""
    if figure.low is None:
        return ""
    return f"{_short(figure.low)}–{_short(figure.high)}" if figure.high is not None else f"from {_short(figure.low)}"


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def render_terminal(found: Score) -> RenderableType:
    """The headline, what could be scored, and the tables."""
    total = found.total
    parts: list[RenderableType] = [Text(headline(total), style="bold")]
    if found.units is not None and found.units_done is not None and found.units_done < found.units:
        parts.append(
            Text(f"{found.units_done:,} of {found.units:,} units are done; this score is of those", style="yellow")
        )
    parts += [_coverage(found), Text(), _errors(found)]
    for title, rows in (("domain", found.domains), ("language", found.languages)):
        parts += [Text(), _scopes(title, rows, total)]
    if total.joint:
        parts += [Text(), _joint(total)]
    if any(each.clips for each in total.filter):
        parts += [Text(), _filter(total)]
    if total.undecided:
        parts.append(
            Text(
                f"{total.undecided:,} {'more ' if total.joint else ''}clips were rejected before the rule could "
                "decide; "
                f"the asr had {human_percent(total.undecided_right[0].value)} of them right"
            )
        )
    return Group(*parts)


def _coverage(found: Score) -> Text:
    placed = found.placed
    clips, samples = placed["scored"]
    line = Text(f"{clips:,} clips ({human_time(samples)}) of {found.total.recordings:,} recordings scored")
    left = [f"{placed[name][0]:,} {PLACEMENTS[name]}" for name in UNSCORED if placed[name][0]]
    if left:
        line.append(f"; not scored: {', '.join(left)}")
    line.append(f"; unalignable: {human_percent(found.unalignable)}")
    return line


def _errors(found: Score) -> WideTable:
    wrong = [f"wrong > {limit:g} %" for limit in found.question.limits]
    table = WideTable("Errors against the truth")
    for header in ("clips", "CER", "95 %", "WER", "mixed tokens", *wrong):
        table.add_column(header)

    def add(name: str, rates: ErrorRates, style: str = "") -> None:
        if rates.clips:
            numbers = [error_rate(rates.cer), interval(rates.cer), error_rate(rates.wer), error_rate(rates.mer)]
            shares = [human_percent(share.value) for share in rates.wrong]
            table.add_row(name, f"{rates.clips:,}", *numbers, *shares, style=style)

    label, *engines = found.total.systems
    for system, names in zip(engines, found.engines, strict=True):
        add(f"{system.name} alone, all clips ({', '.join(map(printable, names))})", system.all)
        add(f"{system.name}, kept clips", system.kept)
        add(f"{system.name}, rejected clips", system.rejected)
    add("labels of kept clips", label.kept, "bold green")
    add("labels that disagreement took away", label.rejected)
    return table


def _scopes(title: str, rows: tuple[Scope, ...], total: Scope) -> WideTable:
    names = [system.name for system in total.systems[1:]]
    rates = [f"{rate} {name}" for rate in ("CER", "WER") for name in (*names, "kept label")]
    table = WideTable(f"Per {title}", title)
    for header in ("clips", "kept", *rates, "CER lower by", "95 %"):
        table.add_column(header)
    for scope in (*rows, total):
        label, *engines = scope.systems
        everything = [*(engine.all for engine in engines), label.kept]
        cells = [error_rate(each.cer) for each in everything] + [error_rate(each.wer) for each in everything]
        name, style = ("all", "bold") if scope is total else (printable(scope.name) or "unknown", "")
        counts = (f"{scope.systems[1].all.clips:,}", f"{label.kept.clips:,}")
        table.add_row(name, *counts, *cells, human_factor(scope.lower_by.value), interval(scope.lower_by), style=style)
    return table


def _joint(total: Scope) -> WideTable:
    table = WideTable("How often both engines are wrong", "of clips that both heard")
    for header in ("clips", "asr wrong", "copilot wrong", "both wrong", "if independent", "both, same text"):
        table.add_column(header)
    for joint in total.joint:
        shares = (joint.asr_wrong, joint.copilot_wrong, joint.both_wrong, joint.if_independent, joint.both_wrong_alike)
        name = f"asr and {joint.copilot}, error rate > {joint.limit:g} %"
        table.add_row(name, f"{joint.clips:,}", *(human_percent(share.value) for share in shares))
    return table


def _filter(total: Scope) -> WideTable:
    table = WideTable("The filter as a search for right labels", "a label is right when")
    for header in ("clips decided", "kept", "right before", "precision", "95 %", "recall", "95 %"):
        table.add_column(header)
    for each in total.filter:
        cells = [f"{each.clips:,}", f"{each.kept:,}", human_percent(each.right_before.value)]
        for share in (each.precision, each.recall):
            cells += [human_percent(share.value), interval(share)]
        table.add_row(f"its error rate is ≤ {each.limit:g} %", *cells)
    return table
