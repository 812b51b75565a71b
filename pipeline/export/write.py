"""The work of `export`.

HANDOFF | RUN ... ──clips──> a Writer for each format ──> OUT/<format>/, replaced as a whole   OUT/export.json
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from operators.errors import UserError
from operators.handoff_record import HandoffRecord
from operators.settings import leaves
from operators.storage.atomic import explained
from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from operators.storage.uri import is_s3
from pipeline.config import Settings, load
from pipeline.export.card import Contents, dataset_card
from pipeline.export.clips import ExportedClip, LeftOut, Sources, clips_of_handoff, clips_of_runs
from pipeline.export.to_hf import HfWriter
from pipeline.export.to_kaldi import KaldiWriter
from pipeline.export.to_lhotse import LhotseWriter
from pipeline.export.to_nemo import NemoWriter
from pipeline.export.to_wenet import WenetWriter
from pipeline.export.writer import Writer
from pipeline.handoff.runs import one_s3, open_runs
from pipeline.run_directory import existing_run

RECORD = "export.json"


@dataclass(frozen=True, slots=True)
class _Source:
    """A _Source is what is exported: a hand-off, or runs."""

    clips: Iterator[ExportedClip]
    sources: Sources
    left_out: LeftOut
    roots: tuple[str, ...]
    runs: dict[str, Settings]
    """of the runs that can be reached, by root"""


def export(
    roots: Sequence[str], overrides: list[str], formats: Sequence[str], folder: str, console: Console, *, repack: bool
) -> None:
    """Write the manifests of a hand-off or some runs. `overrides` are s3.* settings. Raises UserError."""
    source = _open(roots, overrides)
    out = Path(os.path.abspath(folder))
    if (out / "config.yaml").exists() or (out / "handoff.json").exists():
        raise UserError(f"{out} is a run or a hand-off: choose another folder for the export")
    with explained(out, "write the export to"):
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    try:
        contents, writers = _write(source, formats, scratch, out, repack=repack)
        _put(scratch, out, writers, source, contents)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _show(console, contents, writers, source)


def _open(roots: Sequence[str], overrides: list[str]) -> _Source:
    left_out = LeftOut()
    s3 = load(None, overrides).s3
    stores = [open_store(root.rstrip("/").removesuffix("/handoff.json"), s3) for root in roots]
    handoffs = [store for store in stores if store.exists("handoff.json")]
    if not handoffs:
        try:
            runs = open_runs(roots, overrides)
        except UserError as error:
            neither = [store.root for store in stores if not store.exists("config.yaml")]
            if not neither:
                raise
            raise UserError(
                f"{neither[0]} is neither a hand-off (it has no handoff.json) nor a run (no config.yaml): give the "
                "--out of `handoff` or the `output` of a run"
            ) from error
        sources = Sources(one_s3(runs, overrides))
        known = {run.store.root: run.settings for run in runs}
        return _Source(clips_of_runs(runs, sources, left_out), sources, left_out, tuple(known), known)
    if len(stores) > 1:
        raise UserError(f"{handoffs[0].root} is a hand-off, and is exported alone: hand several runs off together")
    store = handoffs[0]
    record = HandoffRecord.from_json(store.read("handoff.json"), store.url("handoff.json"))
    place = record.storage
    if not overrides:
        s3 = S3Settings(
            endpoint_url=place.endpoint_url, region=place.region, addressing_style=place.addressing_style or "auto"
        )
    sources = Sources(s3)
    known = {}
    for each in record.runs or ():
        try:
            known[each.root] = existing_run(each.root, overrides if is_s3(each.root) else [])[0]
        except UserError:
            continue  # a card without its thresholds is still a card
    return _Source(clips_of_handoff(store.root, record, sources, left_out), sources, left_out, (store.root,), known)


def _write(
    source: _Source, formats: Sequence[str], scratch: Path, out: Path, *, repack: bool
) -> tuple[Contents, list[Writer]]:
    def writer(name: str) -> Writer:
        folder, place = scratch / name, out / name
        folder.mkdir()
        if name == "nemo":
            return NemoWriter(folder, place, source.sources.s3.endpoint_url)
        if name == "wenet":
            return WenetWriter(folder, place, source.sources, repack=repack)
        if name == "kaldi":
            return KaldiWriter(folder, place)
        return LhotseWriter(folder, place) if name == "lhotse" else HfWriter(folder, place)

    writers, contents = [writer(name) for name in formats], Contents()
    for clip in source.clips:
        contents.add(clip)
        for each in writers:
            each.add(clip)
    if not contents.clips:
        why = "; ".join(f"{count:,} clips: {reason}" for reason, count in source.left_out.reasons.items())
        raise UserError(f"nothing to export: no clip was kept{f' ({why})' if why else ''}")
    for each in writers:
        each.close()
        if each.name == "hf":
            card = dataset_card(out.name, contents, {root: _thresholds(of) for root, of in source.runs.items()})
            (each.folder / "README.md").write_text(card, encoding="utf-8")
    return contents, writers


def _thresholds(settings: Settings) -> dict[str, object]:
    return {f"rover.{key}": value for key, value, _ in leaves(settings.rover)}


def _put(scratch: Path, out: Path, writers: list[Writer], source: _Source, contents: Contents) -> None:
    """Replace the folder of each format as a whole, and say what was written."""
    for each in writers:
        if each.place.exists():
            os.replace(each.place, scratch / f"{each.name}.before")
        os.replace(each.folder, each.place)
    record = {
        "from": source.roots,
        "splits": {
            split: {"clips": contents.clips[split], "samples": contents.samples[split]} for split in contents.clips
        },
        "left_out": source.left_out.reasons,
        "formats": {each.name: {"skipped": each.skipped} for each in writers},
    }
    (out / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _show(console: Console, contents: Contents, writers: list[Writer], source: _Source) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for name in ("clips", "hours"):
        table.add_column(name, justify="right")
    for split, clips in contents.clips.items():
        table.add_row(split, f"{clips:,}", f"{contents.seconds[split] / 3600:.2f}")
    console.print(table)
    told = [(source.left_out.reasons, "left out")]
    told += [(each.skipped, f"not in {each.name}") for each in writers]
    for reasons, where in told:
        for reason, count in reasons.items():
            console.print(f"{where}: {count:,} clips, for {reason}", markup=False, highlight=False)
    console.print()
    for each in writers:
        line = f"{each.name:<7} {each.shows.format(place=each.place)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
