"""The work of `export`.

HANDOFF | RUN ... ──clips──> a Writer for each format ──> OUT/<format>/, replaced as a whole   OUT/export.json
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from operators.errors import UserError
from operators.page.card import FILE
from operators.storage.atomic import explained
from pipeline.card.dataset import Contents, dataset_card
from pipeline.card.facts import facts
from pipeline.export.source import Source, open_source
from pipeline.export.to_hf import HfWriter
from pipeline.export.to_kaldi import KaldiWriter
from pipeline.export.to_lhotse import LhotseWriter
from pipeline.export.to_nemo import NemoWriter
from pipeline.export.to_wenet import WenetWriter
from pipeline.export.writer import Writer

RECORD = "export.json"
_AUDIO = (
    "The audio is not in these files: the column `audio` points into tars, so the rows can be read where the tars can."
)


def export(
    roots: Sequence[str], overrides: list[str], formats: Sequence[str], folder: str, console: Console, *, repack: bool
) -> None:
    """Write the manifests of a hand-off or some runs. `overrides` are s3.* settings. Raises UserError."""
    source = open_source(roots, overrides)
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


def _write(
    source: Source, formats: Sequence[str], scratch: Path, out: Path, *, repack: bool
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
        raise source.nothing("export")
    for each in writers:
        each.close()
        if each.name == "hf":
            files = {split: [f"data/{split}.parquet"] for split in contents.clips}
            known = [facts(store, settings) for store, settings in source.runs]
            text = dataset_card(out.name, contents, known, files, _AUDIO)
            (each.folder / FILE).write_text(text, encoding="utf-8")
    return contents, writers


def _put(scratch: Path, out: Path, writers: list[Writer], source: Source, contents: Contents) -> None:
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


def _show(console: Console, contents: Contents, writers: list[Writer], source: Source) -> None:
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
