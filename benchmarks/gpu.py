"""Whether this project works on the card of this machine, and how fast: one table, in less than six minutes.

    python -m benchmarks.gpu                        on the card; also: make gpu
    python -m benchmarks.gpu --device cpu --quick   what a CPU can do of it, in seconds
    python -m benchmarks.gpu --whisper FOLDER       a Whisper of CTranslate2 in place of the starter's

    correctness ─> waits ─> paper-1b's step ─> loaders ─> Whisper, ONNX ──each row in its own time──> table, JSON, log

It needs nothing from elsewhere: audio and models are the repository's, batches are made up. A row that fails says so
in a line, with the traceback in the log; the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.accelerator.checks import Context, Outcome, Row, heading, lines, supervise, work_through

BUDGET = 345.0
"""Seconds for all rows."""
_HERE = "benchmarks.accelerator"
ROWS = (
    Row("card", f"{_HERE}.engines:card", 20),
    Row("experts' dispatch", f"{_HERE}.correctness:dispatches", 30),
    Row("20 steps of tiny", f"{_HERE}.correctness:tiny", 90),
    Row("20 steps of a mid size", f"{_HERE}.correctness:mid", 120),
    Row("going on", f"{_HERE}.correctness:going_on", 40),
    Row("waits", f"{_HERE}.waits:micro_batch", 30),
    Row("paper-1b noise", f"{_HERE}.speed:step", 50),
    Row("paper-1b recompute", f"{_HERE}.speed:checkpointing", 30),
    Row("paper-1b kernels", f"{_HERE}.speed:kernels", 40),
    Row("paper-1b loaders", f"{_HERE}.speed:loading", 60),
    Row("Whisper", f"{_HERE}.engines:whisper", 60),
    Row("ONNX", f"{_HERE}.engines:onnx", 30),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write JSON and the log, and return the exit code: 1 where a row failed, 2 without a card."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1 or cpu")
    parser.add_argument("--quick", action="store_true", help="models of no size: does it run, not how fast")
    parser.add_argument("--whisper", metavar="FOLDER", help="a Whisper as CTranslate2 has it")
    parser.add_argument("--only", metavar="ROW,ROW", help="rows by the beginning of their names")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"), metavar="FILE", help="default %(default)s")
    options = parser.parse_args(arguments)
    if reason := _unusable(options):
        print(f"touchasp: {reason}", file=sys.stderr)
        return 2
    wanted = options.only.split(",") if options.only else [""]
    rows = [row for row in ROWS if any(row.name.startswith(name) for name in wanted)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    log, outcomes, began = options.out.with_suffix(".log"), list[Outcome](), time.monotonic()
    log.write_text("")

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print("\n".join(lines(outcome)), flush=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{outcome.name}: {outcome.result}: {outcome.text}\n{outcome.log}\n")
        record = {"device": options.device, "quick": options.quick, "rows": [asdict(one) for one in outcomes]}
        options.out.write_text(json.dumps(record | {"seconds": time.monotonic() - began}, indent=1))

    print("\n".join(heading()), flush=True)
    with tempfile.TemporaryDirectory(prefix="touchasp-gpu-") as folder:
        context = Context(options.device, Path(folder), options.quick, options.whisper)
        if context.on_card:  # what fails there may leave it of no use to its process
            supervise(rows, context, tell, BUDGET)
        else:
            work_through(rows, context, tell)
    failed = [one.name for one in outcomes if one.result == "FAIL"]
    print(
        f"\n{len(outcomes)} rows in {time.monotonic() - began:.0f} s; "
        + (f"FAIL: {', '.join(failed)}; see {log}" if failed else "none failed")
        + f"; {options.out}"
    )
    return 1 if failed else 0


def _unusable(options: argparse.Namespace) -> str:
    """Return why nothing can be measured, and how to change that; empty where it can."""
    if options.whisper and not (Path(options.whisper) / "model.bin").is_file():
        return f"--whisper {options.whisper}: no model.bin there: give a folder that ct2-transformers-converter wrote"
    if options.device == "cpu":
        return ""
    import torch

    if torch.version.cuda is None:
        release = torch.__version__.partition("+")[0]
        index = "--index-url https://download.pytorch.org/whl/cu128"
        return (
            f"torch {torch.__version__} knows no CUDA: pip install --force-reinstall --no-deps torch=={release} {index}"
        )
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no card here (nvidia-smi should name one): say --device cpu --quick"
    return ""


if __name__ == "__main__":
    sys.exit(main())
