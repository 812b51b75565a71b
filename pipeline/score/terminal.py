"""The score of a run in the terminal: the headline, what could be scored, and the tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.display.terminal import WideTable
from pipeline.display.words import human_factor, human_percent, human_time, printable
from pipeline.score.attributes import AGREED
from pipeline.score.counts import UNSCORED
from pipeline.score.estimates import ErrorRates, Scope
from pipeline.score.result import PLACEMENTS, Score, error_rate, headline, interval


def render_terminal(found: Score) -> RenderableType:
    """Return the headline, what could be scored, and the tables."""
    total = found.total
    parts: list[RenderableType] = [Text(headline(total), style="bold")]
    if found.units is not None and found.units_done is not None and found.units_done < found.units:
        line = f"{found.units_done:,} of {found.units:,} units are done; this score is of those"
        parts.append(Text(line, style="yellow"))
    parts += [_coverage(found), Text(), _errors(found)]
    for title, rows in (("domain", found.domains), ("language", found.languages)):
        parts += [Text(), _scopes(title, rows, total)]
    if total.joint:
        parts += [Text(), _joint(total)]
    if any(each.clips for each in total.filter):
        parts += [Text(), _filter(total)]
    if total.undecided:
        clips = f"{total.undecided:,} {'more ' if total.joint else ''}clips"
        right = human_percent(total.undecided_right[0].value)
        parts.append(Text(f"{clips} were rejected before the rule could decide; the asr had {right} of them right"))
    if found.attributes:
        parts += [Text(), _attributes(found)]
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
    wrong = [f"wrong > {limit:g} %" for limit in found.settings.limits]
    form = "as said" if found.settings.spoken else "as written"
    table = WideTable(f"Errors against the truth, {form}")
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


def _attributes(found: Score) -> WideTable:
    table = WideTable("Attributes: each annotator, and what they agree on", "attribute")
    for header in ("clips", "answered", "right of these", "95 %"):
        table.add_column(header)
    for each in found.attributes:
        cells = [f"{each.clips:,}", human_percent(each.answers.value), human_percent(each.accuracy.value)]
        style = "bold green" if each.annotator == AGREED else ""
        table.add_row(printable(f"{each.kind}: {each.annotator}"), *cells, interval(each.accuracy), style=style)
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
