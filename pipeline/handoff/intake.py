"""What the runs and the labelled sets of a hand-off give: their clips in one spool, and what had to be left out.

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
from pipeline.handoff.settings import HandoffSettings
from pipeline.handoff.shards import Damage, read_shards, refuse
from pipeline.handoff.spool import Spool, SpoolNames


@dataclass(slots=True)
class RunIntake:
    """The intake of a run counts what it gave, while its shards are read."""

    run: Run
    units: int = 0
    clips: int = 0
    samples: int = 0
    mel_sums: list[tuple[int, MelSums]] = field(default_factory=list)
    """(clips, sums) of each unit"""

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
        self.spool = Spool(path, self._batches(asked, s3))

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
                source.mel_sums.append((len(shard.rows), shard.mel_sums))
                yield batch
        if not asked.skip_damaged:
            refuse(self.damages)
        for number, labelled in enumerate(self.labelled, start=len(self.runs)):
            yield from labelled_rows(labelled, number, self.names, s3, self.skipped)
