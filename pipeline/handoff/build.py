"""`handoff`: from finished runs to one directory that the trainer takes as its only data argument. No audio is copied.

    runs ──every shard against its ledger──> kept clips ─┐
    labelled manifests ──headers──> rows ────────────────┴─> spool ──sift──> each clip once ──split──> indexes
    mel sums of the ledgers ──> cmvn.json   labels of train ──model_training tokenizer──> tokenizer/   hours ──> weights

    DIR/  handoff.json (last: its presence is "done")  train.arrow dev.arrow test.arrow  cmvn.json  tokenizer/
          duplicates.parquet  skipped.jsonl

The same runs and options give the same bytes. What is written goes through scratch, so DIR may lie on S3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.filterbank import MelSums
from operators.shard import clean
from operators.storage.base import S3Settings, Store
from operators.storage.fetch import open_store
from operators.storage.uri import is_s3
from pipeline import ledger
from pipeline.config import Settings, load
from pipeline.display.terminal import WideTable
from pipeline.display.words import human_percent, human_time, printable
from pipeline.handoff.checks import check_labelled, check_weights, check_writable, scratch_folder
from pipeline.handoff.clips import Gathered, Spool, unit_rows
from pipeline.handoff.index import Amount, Counts, write_indexes
from pipeline.handoff.labelled import LabelledSet, Skipped, labelled_rows, skipped_lines
from pipeline.handoff.shards import Damage, read_shards, refuse
from pipeline.handoff.split import REASONS, SPLITS, Shares, Sifted, repeated_audio, sift, split_gathered
from pipeline.handoff.tokenizer import build_tokenizer, copy_tokenizer, try_tokenizer
from pipeline.plan import load_plan
from pipeline.run_directory import existing_run, stored_config
from stages.write_shard import shard_keys

SCHEMA_VERSION = 1
_MANY_RECORDINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffSettings:
    """What may be chosen of a hand-off."""

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
    checksums: bool = True
    skip_damaged: bool = False
    scratch: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A hand-off that was written, and how it is reached when it lies on S3."""

    uri: str
    s3: S3Settings


@dataclass(frozen=True, slots=True)
class Run:
    """A run to hand off."""

    store: Store
    settings: Settings
    fingerprint: str
    units: int
    """of its plan"""
    domains: frozenset[str]
    """of its plan"""


@dataclass(slots=True)
class _Source:
    """What a run gave. Filled while its shards are read."""

    run: Run
    units: int = 0
    clips: int = 0
    samples: int = 0
    mel_sums: list[tuple[int, MelSums]] = field(default_factory=list)
    """(clips, sums) of each unit"""


def handoff(roots: Sequence[str], overrides: list[str], out: str, asked: HandoffSettings, console: Console) -> Made:
    """Write the hand-off of some runs to `out`. `overrides` are s3.* settings. Raises UserError."""
    runs = [_open_run(root, overrides) for root in roots]
    repeated = sorted({run.store.root for run in runs if [each.store.root for each in runs].count(run.store.root) > 1})
    if repeated:
        raise UserError(f"{repeated[0]} is given twice: name each run once")
    s3 = _one_s3(runs, overrides)
    store = open_store(out, s3)
    if store.exists("config.yaml") or any(run.store.root == store.root for run in runs):
        raise UserError(f"{out} is a run directory: choose another folder for the hand-off")
    check_writable(store)
    check_labelled(asked.labelled, s3)
    check_weights(set(asked.weights), {name for run in runs for name in run.domains}, asked.labelled, s3)
    with scratch_folder(asked.scratch) as scratch:
        _Handoff(runs, s3, store, asked, console, scratch).write()
    return Made(store.root, s3)


def _open_run(root: str, overrides: list[str]) -> Run:
    settings, store = existing_run(root, overrides)
    try:
        store.root.encode()
    except UnicodeEncodeError:
        raise UserError(f"{root!r} is no valid text, so no index can name its shards: rename the folder") from None
    units = load_plan(store)
    planned = {unit.unit_id for unit in units}
    if strangers := sorted(ledger.done_units(store) - planned):
        key = shard_keys(strangers[0])[2]
        raise UserError(f"{store.url(key)} is of no unit of the plan: move what is not of this run away")
    domains = frozenset(clean(unit.domain) for unit in units)
    return Run(store, settings, str(stored_config(store)["fingerprint"]), len(planned), domains)


def _one_s3(runs: Sequence[Run], overrides: list[str]) -> S3Settings:
    """How S3 is reached: as the command line says, else as the runs on S3 say, who must agree."""
    told = [run.settings.s3 for run in runs if is_s3(run.store.root)]
    if overrides or not told:
        return load(None, overrides).s3
    if any(each.endpoint_url != told[0].endpoint_url for each in told):
        raise UserError(
            "the runs lie in different S3 stores, and a trainer reads from one: copy one of them, or hand off each"
        )
    return told[0]


class _Handoff:
    """One hand-off being made. `write` is the whole story."""

    def __init__(
        self, runs: Sequence[Run], s3: S3Settings, store: Store, asked: HandoffSettings, console: Console, scratch: Path
    ) -> None:
        self.s3, self.store, self.asked, self.console, self.scratch = s3, store, asked, console, scratch
        self.sources = [_Source(run) for run in runs]
        self.gathered = Gathered()
        self.damages: list[Damage] = []
        self.skipped: list[Skipped] = []

    def write(self) -> None:
        asked = self.asked
        folder, texts = self.scratch / "out", self.scratch / "labels.txt"
        folder.mkdir()
        if asked.tokenizer is not None:
            copy_tokenizer(folder / "tokenizer", asked.tokenizer, self.s3)
        else:
            try_tokenizer(self.scratch, scheme=asked.scheme, bpe_size=asked.bpe_size)
        spool = Spool(self.scratch / "spool.arrow", self._batches())
        for damage in self.damages:
            self.console.print(
                printable(f"left out: {damage.shard}: {damage.what}"), style="red", markup=False, soft_wrap=True
            )
        sifted = sift(spool)
        shares = Shares(dev=self.asked.dev, test=self.asked.test, seed=self.asked.seed)
        node_split, groups = split_gathered(
            self.gathered, repeated_audio(spool, sifted), shares, runs=len(self.sources)
        )
        recording = spool.numbers("recording")
        split = np.where(sifted.kept, node_split[recording], -1).astype(np.int8)
        if not (split == 0).any():
            raise UserError(
                "nothing to train on: no clip was kept, --dev and --test take all, or one speaker ties them together"
            )
        counts = write_indexes(spool, split, self.gathered, folder, texts)
        weights = _weights(counts.domains, self.asked)
        self._write_duplicates(spool, sifted, folder / "duplicates.parquet")
        (folder / "skipped.jsonl").write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in skipped_lines(self.skipped)),
            "utf-8",
            "replace",
        )
        (folder / "cmvn.json").write_text(json.dumps(self._cmvn(spool, sifted)) + "\n")
        if asked.tokenizer is None:
            build_tokenizer(folder / "tokenizer", texts, scheme=asked.scheme, bpe_size=asked.bpe_size)
        record = self._record(counts, weights, spool, sifted)
        self._put(folder, record)
        self._show(counts, weights, record)
        self._warn(counts, groups, recording[split >= 0])

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for number, source in enumerate(self.sources):
            run = source.run
            shards = read_shards(run.store, run.fingerprint, checksums=self.asked.checksums)
            for shard in shards:
                if isinstance(shard, Damage):
                    self.damages.append(shard)
                    continue
                batch = unit_rows(shard, number, self.gathered)
                source.units += 1
                source.clips += len(shard.rows)
                source.samples += int(batch.column("samples").to_numpy().sum())
                source.mel_sums.append((len(shard.rows), shard.mel_sums))
                yield batch
        if not self.asked.skip_damaged:
            refuse(self.damages)
        for number, labelled in enumerate(self.asked.labelled, start=len(self.sources)):
            yield from labelled_rows(labelled, number, self.gathered, self.s3, self.skipped)

    def _cmvn(self, spool: Spool, sifted: Sifted) -> dict[str, Any]:
        """Of the units that gave a clip. Sums are per unit: one that repeats some of its clips counts whole."""
        total = MelSums()
        at = 0
        for source in self.sources:
            for clips, sums in source.mel_sums:
                if sifted.kept[at : at + clips].any():
                    total = total + sums
                at += clips
        if not total.frames:
            raise UserError("the runs kept no audio, so there is no mean and variance to normalise features by")
        mean, istd = total.cmvn()
        return {"frames": total.frames, "mean": mean.tolist(), "istd": istd.tolist()}

    def _write_duplicates(self, spool: Spool, sifted: Sifted, path: Path) -> None:
        dropped = np.flatnonzero(~sifted.kept)
        first = sifted.repeats[dropped]
        distinct, place = np.unique(first, return_inverse=True)
        names = np.array(self._source_names(), object)
        source = spool.numbers("source")
        columns = {
            "clip_id": spool.texts("clip_id", dropped),
            "dropped_run": names[source[dropped]].tolist(),
            "kept_clip_id": pa.array(spool.texts("clip_id", distinct), pa.string()).take(pa.array(place)),
            "kept_run": names[source[first]].tolist(),
            "same": [REASONS[reason] for reason in sifted.reason[dropped].tolist()],
        }
        schema = pa.schema([(name, pa.string()) for name in columns])
        pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")

    def _source_names(self) -> list[str]:
        return [source.run.store.root for source in self.sources] + [labelled.path for labelled in self.asked.labelled]

    def _record(self, counts: Counts, weights: dict[str, float], spool: Spool, sifted: Sifted) -> dict[str, Any]:
        source, samples = spool.numbers("source"), spool.numbers("samples")

        def used(number: int) -> dict[str, Any]:
            mine = sifted.kept & (source == number)
            return {
                f"used_{key}": value
                for key, value in Amount(int(mine.sum()), int(samples[mine].sum())).to_json().items()
            }

        runs = [
            {
                "root": each.run.store.root,
                "fingerprint": each.run.fingerprint,
                "units": each.units,
                "units_missing": each.run.units - each.units,
                **Amount(each.clips, each.samples).to_json(),
                **used(number),
            }
            for number, each in enumerate(self.sources)
        ]
        labelled = [
            {
                "manifest": each.path,
                "domain": each.domain,
                "skipped_rows": sum(skipped.manifest == each.path for skipped in self.skipped),
                **used(number),
            }
            for number, each in enumerate(self.asked.labelled, start=len(self.sources))
        ]
        repeated = Amount(int((~sifted.kept).sum()), int(samples[~sifted.kept].sum()))
        return {
            "schema_version": SCHEMA_VERSION,
            "seed": self.asked.seed,
            "splits": {
                name: {"index": f"{name}.arrow", **amount.to_json()}
                for name, amount in counts.splits.items()
                if amount.clips or name == "train"
            },
            "domains": {
                name: {"weight": weights.get(name, 1.0), **counts.domains.get(name, Amount()).to_json()}
                for name in sorted(self.gathered.coded["domain"])
            },
            "cmvn": "cmvn.json",
            "tokenizer": "tokenizer",
            "attributes": {
                name: counts.attributes.get(name, {}) for name in ("language", "age", "gender", "emotion", "events")
            },
            "runs": runs,
            "labelled": labelled,
            "duplicates": {"file": "duplicates.parquet", **repeated.to_json()},
            "skipped": {"file": "skipped.jsonl", "rows": len(self.skipped)},
            "damaged": [{"shard": each.shard, "what": each.what} for each in self.damages],
            "settings": {
                "dev": self.asked.dev,
                "test": self.asked.test,
                "alpha": self.asked.alpha,
                "max_weight": self.asked.max_weight,
                "weights": dict(sorted(self.asked.weights.items())),
                "checksums": self.asked.checksums,
            },
            "storage": {
                "endpoint_url": self.s3.endpoint_url,
                "region": self.s3.region,
                "addressing_style": self.s3.addressing_style,
            },
        }

    def _put(self, folder: Path, record: dict[str, Any]) -> None:
        # A reader must never meet the old record beside new indexes.
        self.store.delete("handoff.json")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.store.put(path.relative_to(folder).as_posix(), path)
        self.store.put(
            "handoff.json", (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )

    def _show(self, counts: Counts, weights: dict[str, float], record: dict[str, Any]) -> None:
        table = WideTable("Handed off for training", "domain", "all")
        total = counts.splits["train"]
        for header, footer in (("clips", f"{total.clips:,}"), ("hours", human_time(total.samples)), ("weight", "")):
            table.add_column(header, footer=footer)
        for name in sorted(weights):
            amount = counts.domains.get(name, Amount())
            table.add_row(printable(name), f"{amount.clips:,}", human_time(amount.samples), f"{weights[name]:.2f}")
        self.console.print(table)
        held_out = ", ".join(
            f"{name} {amount.clips:,} clips" for name, amount in counts.splits.items() if name != "train"
        )
        repeated, skipped = record["duplicates"]["clips"], len(self.skipped)
        line = f"{held_out}; {repeated:,} repeated clips dropped"
        if skipped:
            line += f"; {skipped:,} labelled rows skipped ({self.store.url('skipped.jsonl')})"
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _warn(self, counts: Counts, groups: np.ndarray, recordings: np.ndarray) -> None:
        """Say what may surprise. `groups` are of all nodes, `recordings` the nodes of the clips handed off."""

        def warn(line: str) -> None:
            self.console.print(
                f"note: {printable(line)}", style="yellow", markup=False, highlight=False, soft_wrap=True
            )

        for each in self.sources:
            if missing := each.run.units - each.units:
                warn(
                    f"{each.run.store.root} is not whole: {missing} of {each.run.units} units are not in this "
                    "hand-off. "
                    "Once they are, recordings that share a clip or a speaker with theirs may go to another split"
                )
        for name in SPLITS[1:]:
            if not counts.splits[name].clips and getattr(self.asked, name):
                warn(f"the split {name} is empty, there are few recordings: give a larger share with --{name}")
        sizes = np.bincount(groups[recordings])
        largest = int(sizes.argmax())
        together = len(np.unique(recordings[groups[recordings] == largest]))
        # One long recording may well be most of a small hand-off; many, tied by one name, are most likely a mistake.
        if sizes[largest] > len(recordings) // 2 and together >= _MANY_RECORDINGS:
            share = human_percent(100 * sizes[largest] / len(recordings))
            warn(
                f"{share} of the clips, of {together:,} recordings, are tied together by a speaker or repeated audio: "
                "is the speaker's name a placeholder?"
            )


def _weights(domains: dict[str, Amount], asked: HandoffSettings) -> dict[str, float]:
    """How often a clip of each domain is seen in an epoch; balancing leaves the hours of an epoch about as they are."""
    if unknown := sorted(asked.weights.keys() - domains.keys()):
        raise UserError(f"--weight {unknown[0]}: no such domain in train (there are {', '.join(sorted(domains))})")
    hours = {name: amount.samples / SAMPLE_RATE / 3600 for name, amount in domains.items()}
    wanted = {name: own**asked.alpha for name, own in hours.items()}
    scale = sum(hours.values()) / sum(wanted.values())
    balanced = {name: min(asked.max_weight, scale * wanted[name] / hours[name]) for name in domains}
    return {name: asked.weights.get(name, float(f"{weight:.4g}")) for name, weight in balanced.items()}
