"""What the runs and the labelled sets of a hand-off give: their clips in one spool, and what had to be left out.

What may be chosen of a hand-off, its HandoffSettings, stands here too.

runs ──every shard against its ledger──> kept clips, mel sums ─┬─> Intake: spool, counts of each run
labelled sets ──headers──> rows ───────────────────────────────┘           damaged shards, skipped rows
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from operators.errors import UserError
from operators.filterbank import MelSums
from operators.storage.base import S3Settings
from pipeline.handoff.clips import unit_rows
from pipeline.handoff.labelled import LabelledSet, Skipped, labelled_rows
from pipeline.handoff.runs import Run
from pipeline.handoff.shards import Damage, read_shards, refuse
from pipeline.handoff.spool import Spool, SpoolNames
from pipeline.handoff.where import Where


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffSettings:
    """The settings are what the options of the command line say."""

    seed: int = 0
    dev: float = 0.01
    """share of the groups of recordings, 0-1"""
    test: float = 0.01
    alpha: float = 0.7
    """a domain is seen in proportion to its hours to the power of this: 1 as they come, 0 all domains alike"""
    max_weight: float = 4.0
    """the most often that a balanced domain's clips are seen in an epoch"""
    weights: dict[str, float] = field(default_factory=dict)
    """of domains, instead of the balanced ones"""
    labelled: tuple[LabelledSet, ...] = ()
    scheme: str | None = None
    """file with the labels that the model knows; None: the trainer's own"""
    bpe_size: int | None = None
    tokenizer: str | None = None
    """of an earlier hand-off, to be used again; None: built from the labels of train"""
    grow: str | None = None
    """the same, with the characters and letters of train that it lacks"""
    checksums: bool = True
    skip_damaged: bool = False
    scratch: str | None = None
    where: Where | None = None
    """clips of which this is not true are left out"""
    balance: tuple[str, ...] = ()
    """kinds of attribute over which train is seen more evenly"""


@dataclass(slots=True)
class RunIntake:
    """The intake of a run counts what it gave, while its shards are read."""

    run: Run
    units: int = 0
    clips: int = 0
    samples: int = 0
    left_out: int = 0
    """clips of which --where is not true"""
    mel_sums: list[tuple[int, MelSums]] = field(default_factory=list)
    """(clips in the spool, sums) of each unit"""

    @property
    def units_missing(self) -> int:
        return self.run.units - self.units


class Intake:
    """The intake has the clips of all sources in one spool. Sources are numbered: runs first, then labelled sets."""

    def __init__(self, runs: Sequence[Run], asked: HandoffSettings, s3: S3Settings, path: Path) -> None:
        """Read everything into a spool at `path`.

        Raises UserError for what cannot be read, and for damaged shards unless these are to be left out.
        """
        self.runs = [RunIntake(run) for run in runs]
        self.labelled: tuple[LabelledSet, ...] = asked.labelled
        self.names = SpoolNames()
        self.damages: list[Damage] = []
        self.skipped: list[Skipped] = []
        self.labelled_left_out = 0
        self._where = asked.where
        self.spool = Spool(path, self._batches(asked, s3))

    @property
    def left_out(self) -> int:
        """Return the clips of all sources of which --where is not true."""
        return sum(each.left_out for each in self.runs) + self.labelled_left_out

    @property
    def source_names(self) -> list[str]:
        """Return the roots of the runs and the paths of the labelled sets, by number."""
        return [each.run.store.root for each in self.runs] + [labelled.path for labelled in self.labelled]

    def cmvn(self, kept: np.ndarray) -> dict[str, Any]:
        """Return what cmvn.json says: mean and inverse deviation over the units that gave a clip.

        `kept` is bool [clips]. Sums are per unit: one of which some clips are repeated counts whole. Raises UserError
        when there is no audio.
        """
        total = MelSums()
        at = 0
        for source in self.runs:
            for clips, sums in source.mel_sums:
                if kept[at : at + clips].any():
                    total = total + sums
                at += clips
        if not total.frames and self.left_out:
            raise UserError("the runs have no clip of which --where is true: ask for less")
        if not total.frames:
            raise UserError(
                "the runs kept no audio, so there is nothing to train on: give a run that kept clips, or --test 1 to "
                "hold labelled sets out for evaluation"
            )
        mean, istd = total.cmvn()
        return {"frames": total.frames, "mean": mean.tolist(), "istd": istd.tolist()}

    def _batches(self, asked: HandoffSettings, s3: S3Settings) -> Iterator[pa.RecordBatch]:
        for number, source in enumerate(self.runs):
            for shard in read_shards(source.run.store, source.run.fingerprint, checksums=asked.checksums):
                if isinstance(shard, Damage):
                    self.damages.append(shard)
                    continue
                batch = unit_rows(shard, number, self.names)
                source.units += 1
                source.clips += len(shard.rows)
                source.samples += int(batch.column("samples").to_numpy().sum())
                chosen = self._chosen(batch)
                source.left_out += batch.num_rows - chosen.num_rows
                source.mel_sums.append((chosen.num_rows, shard.mel_sums))
                yield chosen
        if not asked.skip_damaged:
            refuse(self.damages)
        for number, labelled in enumerate(self.labelled, start=len(self.runs)):
            for batch in labelled_rows(labelled, number, self.names, s3, self.skipped):
                chosen = self._chosen(batch)
                self.labelled_left_out += batch.num_rows - chosen.num_rows
                yield chosen

    def _chosen(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch if self._where is None else self._where.chosen(batch, self.names)
