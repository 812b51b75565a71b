"""The command line of `export`: manifests for other loaders, which point into the tars. No audio is copied."""

from __future__ import annotations

import argparse

from rich.console import Console

from operators.errors import UserError
from operators.storage.uri import is_s3
from pipeline.handoff.command import split_runs

FORMATS = ("lhotse", "nemo", "wenet", "kaldi", "hf")

EXAMPLES = """\
Splits, duplicates and attributes are the hand-off's. Straight from runs the splits are those that manifests name, else
all is train. docs/how-to/train-elsewhere.md says how each loader opens what is written.

examples:
  python -m pipeline export handoff --to lhotse,nemo --out exported
  python -m pipeline export runs/first runs/second --to hf --out exported
  python -m pipeline export handoff --to wenet --repack --out exported     tars of several splits are written again
  python -m pipeline export s3://bucket/handoff --to nemo,hf --out exported s3.endpoint_url=http://store:9000"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `export`."""
    several = "a hand-off, or run directories, local or s3://; then s3.* settings (key=value)"
    command.add_argument("runs", metavar="HANDOFF|RUN", nargs="+", help=several)
    command.add_argument("--to", metavar="FORMAT,...", required=True, help=f"some of {', '.join(FORMATS)}")
    command.add_argument("--out", metavar="DIR", required=True, help="local folder; each format has a folder in it")
    command.add_argument(
        "--repack", action="store_true", help="wenet: write clips of tars that hold several splits into tars again"
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the manifests. Return the exit code. Raises UserError."""
    from pipeline.export.write import export

    formats = list(dict.fromkeys(each.strip() for each in arguments.to.split(",")))
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UserError(f"--to {unknown[0] or arguments.to!r}: no such format, there are {', '.join(FORMATS)}")
    if is_s3(arguments.out):
        raise UserError(f"--out {arguments.out}: manifests are written to a local folder; copy them where you want")
    roots, overrides = split_runs(arguments.runs)
    export(roots, overrides, formats, arguments.out, console, repack=arguments.repack)
    return 0
