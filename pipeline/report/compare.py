"""`report RUN RUN ...`: domains of several runs side by side, and what changed from each run to the next.

    ledgers ──fold──> Retention per run ─┬─> side by side
    ledgers ──clip ids, outcomes──> join ┴─> Change per neighbours: settings, domains, clips that went elsewhere
                                              ──> terminal, comparison.json, comparison.html

comparison.json, schema 1. Samples are at 16 kHz, percents null without input.

    schema_version
    runs[]       {"name", "root", "fingerprint", "domains": [{"domain", "input", "kept" (samples), "retention_percent",
                 "clips" (kept), "reasons": [{"stage", "reason", "samples"}], most first}], "total": the same}
    changes[]    from each run to the next: {"before", "after" (names), "settings" and "versions": [{"key", "before",
                 "after"}], "clips": {"shared", "same", "relabelled" (kept in both, with another label), "only_before",
                 "only_after", "moves": [{"before", "after" (outcomes), "clips", "samples"}]}}
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console, Group, RenderableType
from rich.text import Text

from operators.errors import UserError
from operators.storage.base import Store
from operators.storage.fetch import open_store
from pipeline import config, ledger
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_time, printable
from pipeline.handoff.clip_keys import first_places, keys
from pipeline.handoff.clips import Names
from pipeline.report.retention import FOLD_COLUMNS, Retention, Tally, fold
from pipeline.run_directory import existing_run, stored_config

SCHEMA_VERSION = 1
KEPT = "kept"
_SHOWN_REASONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs that are compared."""

    name: str
    root: str
    store: Store
    fingerprint: str
    settings: dict[str, Any]
    """that decide the output, by dotted key"""
    versions: dict[str, str]
    retention: Retention

    def tally(self, domain: str) -> Tally:
        return self.retention.domains.get(domain, Tally())


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting or a version that two runs do not share."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Move:
    """Clips that both runs have, with another outcome: "kept", or "stage: reason"."""

    before: str
    after: str
    clips: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different in the second of two runs. Clips are the same when their ids are: recording, start and end."""

    before: str
    after: str
    settings: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    shared: int
    same: int
    relabelled: int
    only_before: int
    only_after: int
    moves: tuple[Move, ...]


def compare(roots: Sequence[str], overrides: list[str], out: str | None, console: Console) -> None:
    """Compare runs; print that, and write comparison.json and comparison.html into `out`, or the last run.

    Raises UserError.
    """
    from pipeline.report.compare_page import render_page

    if repeated := sorted({root for root in roots if roots.count(root) > 1}):
        raise UserError(f"{repeated[0]} is given twice: name each run once")
    runs = [_open(root, name, overrides) for root, name in zip(roots, _names(roots), strict=True)]
    changes = [change(before, after) for before, after in itertools.pairwise(runs)]
    store = runs[-1].store if out is None else open_store(out, config.load(None, overrides).s3)
    document = {
        "schema_version": SCHEMA_VERSION,
        "runs": [_run_json(run) for run in runs],
        "changes": [_change_json(each) for each in changes],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    store.put("comparison.json", (text + "\n").encode("utf-8", "backslashreplace"))
    store.put("comparison.html", render_page(runs, changes))
    console.print(render_terminal(runs, changes))
    where = printable(store.url("comparison.html"))
    console.print(f"\ncomparison: {where}", markup=False, highlight=False, soft_wrap=True)


def _names(roots: Sequence[str]) -> list[str]:
    """The last part of each path where these differ, else the paths."""
    short = [os.path.basename(root.rstrip("/")) or root for root in roots]
    return short if len(set(short)) == len(short) else list(roots)


def _open(root: str, name: str, overrides: list[str]) -> ComparedRun:
    settings, store = existing_run(root, overrides)
    stored = stored_config(store)
    versions = stored.get("versions")
    retention = fold(ledger.ledgers(store, FOLD_COLUMNS))
    retention.assert_conserved()
    return ComparedRun(
        name=name,
        root=store.root,
        store=store,
        fingerprint=str(stored["fingerprint"]),
        settings=config.output_settings(settings),
        versions={str(key): str(value) for key, value in versions.items()} if isinstance(versions, dict) else {},
        retention=retention,
    )


def change(before: ComparedRun, after: ComparedRun) -> Change:
    """What changed from one run to the other. Raises UserError when a ledger cannot be read."""
    outcomes = Names()
    outcomes.code(KEPT)
    old, new = _clips(before.store, outcomes), _clips(after.store, outcomes)
    place = first_places(np.concatenate([old.keys, new.keys]))[len(old.keys) :]
    in_new = np.flatnonzero(place < len(old.keys))
    in_old = place[in_new]
    was, now = old.outcome[in_old], new.outcome[in_new]
    kept = (was == 0) & (now == 0)
    names = list(outcomes)
    moves = []
    pairs, which = np.unique(np.stack([was, now], axis=1), axis=0, return_inverse=True)
    for number, (a, b) in enumerate(pairs.tolist()):
        if a != b:
            mine = which.ravel() == number
            moves.append(Move(names[a], names[b], int(mine.sum()), int(new.samples[in_new][mine].sum())))
    return Change(
        before=before.name,
        after=after.name,
        settings=_differences(before.settings, after.settings),
        versions=_differences(before.versions, after.versions),
        shared=len(in_new),
        same=int((was == now).sum()),
        relabelled=int((old.label[in_old] != new.label[in_new])[kept].sum()),
        only_before=len(old.keys) - len(in_new),
        only_after=len(new.keys) - len(in_new),
        moves=tuple(sorted(moves, key=lambda move: (-move.samples, move.before, move.after))),
    )


def _differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[Difference, ...]:
    both = sorted(before.keys() | after.keys())
    return tuple(Difference(key, before.get(key), after.get(key)) for key in both if before.get(key) != after.get(key))


@dataclass(frozen=True, slots=True)
class _Clips:
    """Every clip of a run, kept or not, in some forty bytes each."""

    keys: np.ndarray
    """uint64 [N, 2]: of the clip id"""
    outcome: np.ndarray
    """int32 [N]"""
    samples: np.ndarray
    """int64 [N]"""
    label: np.ndarray
    """uint64 [N]: of the label's text"""


def _clips(store: Store, outcomes: Names) -> _Clips:
    parts = list(_clip_parts(store, outcomes))
    return _Clips(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _clip_parts(store: Store, outcomes: Names) -> Iterator[tuple[np.ndarray, ...]]:
    for table in ledger.ledgers(store, ("clip_id", "start", "end", "outcome", "stage", "reason", "label")):
        clips = table.filter(pc.is_valid(table["clip_id"]))
        cause = pc.binary_join_element_wise(pc.fill_null(clips["stage"], ""), pc.fill_null(clips["reason"], ""), ": ")
        outcome = pc.if_else(pc.equal(clips["outcome"], KEPT), KEPT, cause)
        yield (
            keys(clips["clip_id"].to_pylist()),
            outcomes.codes(outcome).to_numpy(),
            pc.subtract(clips["end"], clips["start"]).to_numpy(),
            keys(text or "" for text in clips["label"].to_pylist())[:, 0],
        )


def domains(runs: Sequence[ComparedRun]) -> list[str]:
    """Every domain of any run."""
    return sorted({name for run in runs for name in run.retention.domains})


def reasons(tally: Tally) -> list[tuple[str, str, int]]:
    """(stage, reason, samples) that were lost, most first; what is not speech is no loss."""
    lost = [(stage, reason, amount.samples) for (stage, reason), amount in tally.rejected.items()]
    return sorted(lost, key=lambda each: (-each[2], each[0], each[1]))


def main_reasons(tally: Tally) -> str:
    """The largest losses, in percent of the input."""
    shown = [
        f"{reason} {human_percent(100 * samples / tally.input)}"
        for _, reason, samples in reasons(tally)[:_SHOWN_REASONS]
        if samples and tally.input
    ]
    return ", ".join(shown) or "–"


def points(before: Tally, after: Tally) -> str:
    """The change of the share kept, in percentage points."""
    if before.retention is None or after.retention is None:
        return "–"
    return f"{after.retention - before.retention:+.1f}"


def shown_value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"


def render_terminal(runs: Sequence[ComparedRun], changes: Sequence[Change]) -> RenderableType:
    """Domains side by side, then one block per change."""
    table = WideTable("Domains side by side", "domain", "all")
    for at, run in enumerate(runs):
        total, name = run.retention.total, printable(run.name)
        table.add_column(f"{name}\nin", footer=human_time(total.input))
        table.add_column("\nkept", footer=human_percent(total.retention))
        if at:
            table.add_column("\npoints", footer=points(runs[at - 1].retention.total, total))
        table.add_column("\nlost most to", footer=main_reasons(total))
    for domain in domains(runs):
        cells: list[str] = []
        for at, run in enumerate(runs):
            tally = run.tally(domain)
            cells += [human_time(tally.input), human_percent(tally.retention)]
            cells += [points(runs[at - 1].tally(domain), tally)] if at else []
            cells.append(printable(main_reasons(tally)))
        table.add_row(printable(domain), *cells)
    parts: list[RenderableType] = [table]
    for each in changes:
        parts += [Text(), _change_text(each)]
        if each.moves:
            moves = WideTable("Clips with another outcome", "before → after")
            moves.add_column("clips")
            moves.add_column("time")
            for move in each.moves:
                moves.add_row(printable(f"{move.before} → {move.after}"), f"{move.clips:,}", human_time(move.samples))
            parts += [Text(), moves]
    return Group(*parts)


def _change_text(each: Change) -> Text:
    text = Text()
    text.append(f"From {printable(each.before)} to {printable(each.after)}\n", style="bold")
    for kind, differences in (("setting", each.settings), ("version", each.versions)):
        for found in differences:
            line = f"{kind} {found.key}: {shown_value(found.before)} → {shown_value(found.after)}"
            text.append(printable(line) + "\n")
    if not each.settings and not each.versions:
        text.append("same settings, same versions\n")
    if each.shared:
        text.append(
            f"{each.shared:,} clips in both, {each.same:,} with the same outcome, {each.relabelled:,} kept with "
            f"another label; {each.only_before:,} only before, {each.only_after:,} only after"
        )
    else:
        text.append("no clip in both: other recordings, or cut otherwise")
    return text


def _run_json(run: ComparedRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "root": run.root,
        "fingerprint": run.fingerprint,
        "total": _tally_json(run.retention.total),
        "domains": [{"domain": name} | _tally_json(tally) for name, tally in sorted(run.retention.domains.items())],
    }


def _tally_json(tally: Tally) -> dict[str, Any]:
    return {
        "input": tally.input,
        "kept": tally.kept.samples,
        "clips": tally.kept.clips,
        "retention_percent": tally.retention,
        "reasons": [
            {"stage": stage, "reason": reason, "samples": samples} for stage, reason, samples in reasons(tally)
        ],
    }


def _change_json(each: Change) -> dict[str, Any]:
    def plain(differences: tuple[Difference, ...]) -> list[dict[str, Any]]:
        return [{"key": found.key, "before": found.before, "after": found.after} for found in differences]

    return {
        "before": each.before,
        "after": each.after,
        "settings": plain(each.settings),
        "versions": plain(each.versions),
        "clips": {
            "shared": each.shared,
            "same": each.same,
            "relabelled": each.relabelled,
            "only_before": each.only_before,
            "only_after": each.only_after,
            "moves": [
                {"before": move.before, "after": move.after, "clips": move.clips, "samples": move.samples}
                for move in each.moves
            ],
        },
    }
