"""What the terminal says of a hand-off: what was left out, what was handed off, and what may surprise.

Intake ──tell_damages──> lines in red      Counts, weights ──show──> table      Intake, splits ──warn──> notes
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console

from operators.split import SPLITS
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_time, printable
from pipeline.handoff.indexes import Amount, Counts
from pipeline.handoff.intake import HandoffSettings, Intake

_MANY_RECORDINGS = 5


def tell_damages(console: Console, intake: Intake) -> None:
    """Name the damaged shards that were left out."""
    for damage in intake.damages:
        line = printable(f"left out: {damage.shard}: {damage.what}")
        console.print(line, style="red", markup=False, soft_wrap=True)


def show(
    console: Console, counts: Counts, weights: Mapping[str, float], repeated: int, intake: Intake, skipped_file: str
) -> None:
    """Print the domains of train, the sizes of the other splits, and how many clips and rows were left out."""
    if counts.splits["train"].clips:
        console.print(_training_table(counts, weights))
    held_out = ", ".join(f"{name} {amount.clips:,} clips" for name, amount in counts.splits.items() if name != "train")
    line = f"{held_out}; {repeated:,} repeated clips dropped"
    if intake.left_out:
        line += f"; {intake.left_out:,} clips left out by --where"
    if intake.skipped:
        line += f"; {len(intake.skipped):,} labelled rows skipped ({skipped_file})"
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _training_table(counts: Counts, weights: Mapping[str, float]) -> WideTable:
    table = WideTable("Handed off for training", "domain", "all")
    total = counts.splits["train"]
    for header, footer in (("clips", f"{total.clips:,}"), ("hours", human_time(total.samples)), ("weight", "")):
        table.add_column(header, footer=footer)
    for name in sorted(weights):
        amount = counts.domains.get(name, Amount())
        table.add_row(printable(name), f"{amount.clips:,}", human_time(amount.samples), f"{weights[name]:.2f}")
    return table


def warn(
    console: Console,
    counts: Counts,
    asked: HandoffSettings,
    intake: Intake,
    groups: np.ndarray,
    recordings: np.ndarray,
) -> None:
    """Print notes on what may surprise.

    `groups` is int64 [nodes], the group of each node; `recordings` int32 [clips], the nodes of the clips handed off.
    """

    def note(line: str) -> None:
        console.print(f"note: {printable(line)}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    for each in intake.runs:
        if each.units_missing:
            note(
                f"{each.run.store.root} is not whole: {each.units_missing} of {each.run.units} units are not in this "
                "hand-off. Once they are, recordings that share a clip or a speaker with theirs may go to another split"
            )
    for name in SPLITS[1:]:
        if not counts.splits[name].clips and getattr(asked, name):
            note(f"the split {name} is empty, there are few recordings: give a larger share with --{name}")
    sizes = np.bincount(groups[recordings])
    largest = int(sizes.argmax())
    together = len(np.unique(recordings[groups[recordings] == largest]))
    # One long recording may well be most of a small hand-off; many, tied by one name, are most likely a mistake.
    if sizes[largest] > len(recordings) // 2 and together >= _MANY_RECORDINGS:
        share = human_percent(100 * sizes[largest] / len(recordings))
        note(
            f"{share} of the clips, of {together:,} recordings, are tied together by a speaker or repeated audio: "
            "is the speaker's name a placeholder?"
        )
