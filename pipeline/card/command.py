"""The command `card`: a run or a hand-off tells what is in it, as hubs read it.

RUN | HANDOFF ──clips──> Contents ──┐
ledgers, config.yaml ──> RunFacts ──┴──> README.md, unless a person has changed the one that is there
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from operators.errors import UserError
from operators.page.card import FILE, is_own
from operators.storage.base import Store
from pipeline.handoff.command import split_runs

EXAMPLES = """\
Writes README.md into the run or hand-off: clips and hours by split, domain, language and licence, retention, engines
and thresholds, with the front matter that Hugging Face's hub reads. docs/how-to/share.md says how it is pushed.

examples:
  python -m pipeline card runs/first
  python -m pipeline card handoff --out dataset/README.md
  python -m pipeline card s3://bucket/run s3.endpoint_url=http://store:9000"""

_OF_RUN = (
    "The audio lies in tars in WebDataset form, three members a clip: `<clip_id>.flac` or `.opus`, 16 kHz mono, "
    "`<clip_id>.txt` the label, `<clip_id>.json` the rest. The Parquet file beside each tar has every clip, those that "
    "were not kept with the reason."
)
_MIXED = (
    "Some tars hold clips of several splits, so no split is declared here: `export --to hf` writes a file for each."
)
_OF_HANDOFF = "This is a hand-off: indexes of clips whose audio lies in the shards of the runs."


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `card`."""
    one = "a hand-off or a run directory, local or s3://; then s3.* settings (key=value)"
    command.add_argument("runs", metavar="HANDOFF|RUN", nargs="+", help=one)
    command.add_argument("--out", metavar="FILE", help=f"local file to write instead (default: {FILE} in it)")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the card. Return the exit code. Raises UserError."""
    roots, overrides = split_runs(arguments.runs)
    if len(roots) > 1:
        raise UserError("card takes one run or one hand-off: hand several runs off together, and give the hand-off")
    from pipeline.card.dataset import Contents, dataset_card
    from pipeline.card.facts import facts
    from pipeline.export.source import open_source

    source = open_source(roots, overrides)
    store, out = source.stores[0], None if arguments.out is None else Path(arguments.out)
    _refuse_changed(store, out)
    contents, splits = Contents(), defaultdict[str, set[str]](set)
    for clip in source.clips:
        contents.add(clip)
        splits[clip.row.shard].add(clip.split)
    if not contents.clips:
        raise source.nothing("tell of")
    if source.is_handoff:
        files, audio = {}, _OF_HANDOFF
    else:
        files = _tars(store, splits)
        audio = _OF_RUN if files else f"{_OF_RUN} {_MIXED}"
    known = [facts(*each) for each in source.runs]
    name = Path(store.root.rstrip("/")).name
    text = dataset_card(name, contents, known, files, audio)
    for reason, count in source.left_out.reasons.items():
        console.print(f"left out: {count:,} clips, for {reason}", markup=False, highlight=False)
    place = _write(store, out, text)
    console.print(f"card: {place}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _tars(store: Store, splits: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return the tars of each split, relative to the run; nothing where a tar holds clips of several."""
    if set().union(*splits.values()) == {"train"}:
        return {"train": ["shards/*/*.tar"]}
    if any(len(of) > 1 for of in splits.values()):
        return {}
    tars = defaultdict[str, list[str]](list)
    for tar, (split,) in sorted(splits.items()):
        tars[split].append(tar.removeprefix(store.url("")))
    return dict(tars)


def _refuse_changed(store: Store, out: Path | None) -> None:
    """Refuse to write over a card that a person has changed, before anything is read. Raises UserError."""
    if out is None:
        place, there = store.url(FILE), store.read(FILE) if store.exists(FILE) else None
    else:
        place, there = str(out), out.read_bytes() if out.is_file() else None
    if there is not None and not is_own(there.decode("utf-8", "replace")):
        raise UserError(f"{place} was changed since it was written here: move it away, or give --out another FILE")


def _write(store: Store, out: Path | None, text: str) -> str:
    if out is None:
        store.put(FILE, text.encode("utf-8"))
        return store.url(FILE)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): give --out another FILE") from None
    return str(out)
