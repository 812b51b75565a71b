"""`handoff`: from finished runs to one directory that the trainer takes as its only data argument. No audio is copied.

    runs, labelled sets ──intake──> spool ──deduplicate──> each clip once ──split──> indexes
    mel sums of the ledgers ──> cmvn.json   labels of train ──model_training tokenizer──> tokenizer/   hours ──> weights

    DIR/  handoff.json (last: its presence is "done")  train.arrow dev.arrow test.arrow  cmvn.json  tokenizer/
          duplicates.parquet  skipped.jsonl

The same runs and options give the same bytes. What is written goes through scratch, so DIR may lie on S3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from operators.clip import KINDS
from operators.errors import UserError
from operators.handoff_record import (
    Choices,
    CuratedRun,
    DamagedShard,
    Domain,
    Duplicates,
    HandoffRecord,
    LabelledManifest,
    S3Place,
    SkippedRows,
    Split,
)
from operators.split import SPLITS, Shares, split_table
from operators.storage.base import S3Settings, Store
from operators.storage.fetch import open_store
from pipeline.handoff.checks import check_labelled, check_weights, check_writable, scratch_folder
from pipeline.handoff.deduplicate import Deduplicated, deduplicate, repeated_audio, write_duplicates
from pipeline.handoff.indexes import Amount, Counts, Texts, write_indexes
from pipeline.handoff.intake import HandoffSettings, Intake
from pipeline.handoff.labelled import skipped_lines
from pipeline.handoff.runs import Run, one_s3, open_runs
from pipeline.handoff.strata import Strata, balance, stratify
from pipeline.handoff.summary import show, tell_damages, warn
from pipeline.handoff.tokenizer import build_tokenizer, copy_tokenizer, try_tokenizer

_RECORD = "handoff.json"
_DUPLICATES = "duplicates.parquet"
_SKIPPED = "skipped.jsonl"


@dataclass(frozen=True, slots=True)
class HandoffPlace:
    """A hand-off lies at `uri`, and is reached so when that is on S3."""

    uri: str
    s3: S3Settings
    is_trained_on: bool
    """False: all of it is held out, and models from elsewhere are evaluated on it."""


def handoff(
    roots: Sequence[str], overrides: list[str], out: str, asked: HandoffSettings, console: Console
) -> HandoffPlace:
    """Write the hand-off of some runs to `out`. `overrides` are s3.* settings. Raises UserError."""
    runs = open_runs(roots, overrides)
    s3 = one_s3(runs, overrides)
    store = open_store(out, s3)
    if store.exists("config.yaml") or any(run.store.root == store.root for run in runs):
        raise UserError(f"{out} is a run directory: choose another folder for the hand-off")
    check_writable(store)
    check_labelled(asked.labelled, s3)
    check_weights(set(asked.weights), {name for run in runs for name in run.domains}, asked.labelled, s3)
    with scratch_folder(asked.scratch) as scratch:
        is_trained_on = _write(runs, s3, store, asked, console, scratch)
    return HandoffPlace(store.root, s3, is_trained_on)


def _write(
    runs: Sequence[Run], s3: S3Settings, store: Store, asked: HandoffSettings, console: Console, scratch: Path
) -> bool:
    """Return whether there is something to train on."""
    folder, texts = scratch / "out", Texts(scratch / "labels.txt", scratch / "languages.txt")
    folder.mkdir()
    if asked.tokenizer is not None:
        copy_tokenizer(folder / "tokenizer", asked.tokenizer, s3)
    earlier = None if asked.grow is None else scratch / "grow"
    if asked.grow is not None and earlier is not None:
        copy_tokenizer(earlier, asked.grow, s3)
    if asked.tokenizer is None:
        try_tokenizer(scratch, scheme=asked.scheme, bpe_size=asked.bpe_size, grow=earlier)

    intake = Intake(runs, asked, s3, scratch / "spool.arrow")
    tell_damages(console, intake)
    once = deduplicate(intake.spool)
    split, groups = _split(intake, once, asked)

    strata = stratify(intake.spool, intake.names, asked.balance) if asked.balance else None
    counts = write_indexes(intake.spool, split, intake.names, folder, texts, None if strata is None else strata.codes)
    weights = _weights(counts.domains, asked) if strata is None else _balanced(counts.domains, strata, asked)
    write_duplicates(folder / _DUPLICATES, intake.spool, once, intake.source_names)
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in skipped_lines(intake.skipped))
    (folder / _SKIPPED).write_text("".join(lines), "utf-8", "replace")
    is_trained_on = bool((split == 0).any())
    if is_trained_on:
        (folder / "cmvn.json").write_text(json.dumps(intake.cmvn(once.kept)) + "\n")
    if is_trained_on and asked.tokenizer is None:
        build_tokenizer(folder / "tokenizer", texts, scheme=asked.scheme, bpe_size=asked.bpe_size, grow=earlier)
    record = _record(intake, once, split >= 0, counts, weights, asked, s3)
    _put(store, folder, record)

    show(console, counts, weights, int((~once.kept).sum()), intake, store.url(_SKIPPED))
    warn(console, counts, asked, intake, groups, intake.spool.numbers("recording")[split >= 0])
    return is_trained_on


def _split(intake: Intake, once: Deduplicated, asked: HandoffSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 [clips], the place in SPLITS of each clip, -1 for none, and int64 [nodes], the group of each node.

    A clip goes where its manifest says. Where that says nothing it goes with its group, and a group with a clip of an
    official test set is never trained on. Raises UserError when nothing is left to train on and nobody asked for that.
    """
    shares = Shares(dev=asked.dev, test=asked.test, seed=asked.seed)
    repeated = repeated_audio(intake.spool, once)
    node_split, groups = split_table(intake.names.nodes, shares, runs=len(intake.runs), repeated=repeated)
    recording, given = intake.spool.numbers("recording"), intake.spool.numbers("split")
    claimed = np.full(len(groups), -1, np.int8)
    np.maximum.at(claimed, groups[recording], given)  # test before dev before train
    of_group = claimed[groups[recording]]
    split = np.where(given >= 0, given, np.where(of_group >= 0, of_group, node_split[recording]))
    split = np.where(once.kept, split, -1).astype(np.int8)
    if asked.test == 1:  # what a set has to train on is no test of it either
        split[split == SPLITS.index("train")] = -1
    test_only = asked.test == 1 or (len(given) and (given[once.kept] == SPLITS.index("test")).all())
    if not len(split) and intake.left_out:
        raise UserError(f"nothing to hand off: --where is true of none of {intake.left_out:,} clips: ask for less")
    if not (split == 0).any() and not test_only:
        raise UserError(
            "nothing to train on: no clip was kept, --dev and --test take all, or one speaker ties them together; for "
            "a hand-off that is only evaluated on say --test 1"
        )
    if not (split >= 0).any():
        raise UserError("nothing to hand off: no clip was kept")
    return split, groups


def _weights(domains: Mapping[str, Amount], asked: HandoffSettings) -> dict[str, float]:
    """Return the weight of every domain of train: the one asked for, else one that balances.

    Balancing leaves the hours of an epoch about as they are. Raises UserError for a weight of no domain of train.
    """
    if unknown := sorted(asked.weights.keys() - domains.keys()):
        raise UserError(f"--weight {unknown[0]}: no such domain in train (there are {', '.join(sorted(domains))})")
    wanted = {name: amount.hours**asked.alpha for name, amount in domains.items()}
    scale = sum(amount.hours for amount in domains.values()) / (sum(wanted.values()) or 1.0)
    balanced = {name: min(asked.max_weight, scale * wanted[name] / domains[name].hours) for name in domains}
    return {name: asked.weights.get(name, float(f"{weight:.4g}")) for name, weight in balanced.items()}


def _balanced(amounts: Mapping[str, Amount], strata: Strata, asked: HandoffSettings) -> dict[str, float]:
    """Return the weight of every stratum of train. Raises UserError as `_weights`, and for a kind without labels."""
    domains: dict[str, Amount] = {}
    for name, amount in amounts.items():
        before = domains.get(strata.by_name[name].domain, Amount())
        whole = Amount(before.clips + amount.clips, before.samples + amount.samples)
        domains[strata.by_name[name].domain] = whole
    own = _weights(domains, asked)
    return balance(amounts, strata, own, asked.balance, alpha=asked.alpha, max_weight=asked.max_weight)


def _record(
    intake: Intake,
    once: Deduplicated,
    in_split: np.ndarray,
    counts: Counts,
    weights: Mapping[str, float],
    asked: HandoffSettings,
    s3: S3Settings,
) -> HandoffRecord:
    source, samples = intake.spool.numbers("source"), intake.spool.numbers("samples")

    def amount(chosen: np.ndarray) -> Amount:
        return Amount(int(chosen.sum()), int(samples[chosen].sum()))

    used = [amount(in_split & (source == number)) for number in range(len(intake.source_names))]
    repeated = amount(~once.kept)
    in_train = {name: counts.domains.get(name, Amount()) for name in sorted(intake.names.coded["domain"])}
    return HandoffRecord(
        seed=asked.seed,
        splits={
            name: Split(index=f"{name}.arrow", clips=own.clips, hours=own.hours)
            for name, own in counts.splits.items()
            if own.clips or name == "train"
        },
        domains={
            name: Domain(weight=weights.get(name, 1.0), clips=own.clips, hours=own.hours)
            for name, own in in_train.items()
        },
        attributes={kind: counts.attributes.get(kind, {}) for kind in KINDS},
        runs=tuple(
            CuratedRun(
                root=each.run.store.root,
                fingerprint=each.run.fingerprint,
                units=each.units,
                units_missing=each.units_missing,
                clips=each.clips,
                hours=Amount(each.clips, each.samples).hours,
                used_clips=own.clips,
                used_hours=own.hours,
            )
            for each, own in zip(intake.runs, used, strict=False)
        ),
        labelled=tuple(
            LabelledManifest(
                manifest=each.path,
                domain=each.domain,
                skipped_rows=sum(skipped.manifest == each.path for skipped in intake.skipped),
                used_clips=own.clips,
                used_hours=own.hours,
            )
            for each, own in zip(intake.labelled, used[len(intake.runs) :], strict=True)
        ),
        duplicates=Duplicates(file=_DUPLICATES, clips=repeated.clips, hours=repeated.hours),
        left_out=intake.left_out if asked.where else None,
        skipped=SkippedRows(file=_SKIPPED, rows=len(intake.skipped)),
        damaged=tuple(DamagedShard(shard=each.shard, what=each.what) for each in intake.damages),
        settings=Choices(
            dev=asked.dev,
            test=asked.test,
            alpha=asked.alpha,
            max_weight=asked.max_weight,
            weights=dict(sorted(asked.weights.items())),
            checksums=asked.checksums,
            where=asked.where.text if asked.where else "",
            balance=asked.balance,
        ),
        storage=S3Place(endpoint_url=s3.endpoint_url, region=s3.region, addressing_style=s3.addressing_style),
    )


def _put(store: Store, folder: Path, record: HandoffRecord) -> None:
    # A reader must never meet the old record beside new indexes.
    store.delete(_RECORD)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        store.put(path.relative_to(folder).as_posix(), path)
    store.put(_RECORD, (record.to_json() + "\n").encode())
