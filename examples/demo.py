"""`make demo`: curate the demo crawl with the starter engines, then hold the labels against the truth.

Where the starter engines are not there, engines with random weights take their place: everything runs, and nothing is kept,
because two engines that hear nothing do not agree.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path("examples/starter_engines/models")
RANDOM = Path("runs/random_engines")
RUN = Path("runs/demo")


def pipeline(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    settings: list[str] = []
    if not (ROOT / MODELS / "whisper-starter").is_dir():
        print("The starter engines are not here: using RANDOM WEIGHTS. They hear nothing, so nothing will be kept.\n")
        subprocess.run([sys.executable, "examples/random_engines/make.py", str(RANDOM)], cwd=ROOT, check=True)
        settings = [f"asr.model={RANDOM}/whisper-random", f"copilot.models={{'*': {RANDOM}/paraformer-random}}"]
    shutil.rmtree(ROOT / RUN, ignore_errors=True)  # a demo starts afresh; a run of yours goes on where it stopped
    pipeline("run", "examples/demo.yaml", *settings)
    retention = json.loads((ROOT / RUN / "report.json").read_text())["total"]["retention_percent"] or 0.0
    if retention < 5 and not settings:
        print(
            "\nNearly nothing was kept, and rightly: the starter engines were trained for minutes and still mishear most"
            "\nsentences (examples/starter_engines/models/*/README.md), so they do not agree. The run shows how that is"
            "\naccounted for."
        )
    pipeline("score", str(RUN), "--truth", "examples/demo_crawl/truth.jsonl")
    print(f"\nThe report to read and listen to: {ROOT / RUN / 'report.html'}")
    print(f"How good the labels are:          {ROOT / RUN / 'score.html'}")


if __name__ == "__main__":
    main()
