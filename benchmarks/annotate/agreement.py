"""What agreement of two annotators is worth on the crawl: how often labels are right, and how many there are.

    clips of the crawl ──a model of ours, and a small classifier of other speakers, sounds──> opinions ──agree──> labels
    truth ──> of each annotator and of what they agree on: share right, share of the clips that have a label at all

    python -m benchmarks.annotate.agreement --own EXPORTED

The classifiers come of examples/attribute_classifier, and are asked about speakers and sounds that they were not
trained on: speakers of the classroom and the live recordings in two halves by their names, each trained on the other;
sounds in three thirds likewise. Events are told by two classifiers of different statistics, for the model of ours may
know none of the crawl's sounds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.annotate.crawl import TrueSegment, add_crawl, crawl_folder, segments
from benchmarks.targets import show_targets
from benchmarks.truth import share, table
from examples.attribute_classifier.make import STATISTICS, make
from operators.annotate.agree import agree
from operators.annotate.annotator import Annotator, Heard, opinions
from operators.annotate.onnx_classifier import OnnxClassifier


def part_of(name: str, parts: int) -> int:
    """Return in which part a speaker or sound lies: a function of its name."""
    return hashlib.sha256(name.encode()).digest()[0] % parts


Said = tuple[Any, list[Any]]
"""The true label of a clip, and the label of each annotator and of both: None where there is none."""


def asked(kind: str, annotators: Sequence[Annotator], clips: Sequence[tuple[np.ndarray, Any]]) -> list[Said]:
    """Return what is said of each clip. clips: pcm and the true label, of events a tuple of them."""
    heard = [Heard(pcm=pcm, text="") for pcm, _ in clips]
    told = [opinions(annotator, heard, [kind]) for annotator in annotators]
    found: list[Said] = []
    for (_, true), of_clip in zip(clips, zip(*told, strict=True), strict=True):
        alone = [(each[0].labels if kind == "events" else each[0].labels[0]) if each else None for each in of_clip]
        agreed = agree([named for each in of_clip for named in each], {}, 2)
        found.append((true, [*alone, getattr(agreed, kind)]))
    return found


def report(title: str, names: Sequence[str], said: Sequence[Said]) -> None:
    """Print how right each annotator is, and what they agree on."""
    rows, wrong = [], []
    for place, name in enumerate([*names, "both agree"]):
        labelled = [(true, labels[place]) for true, labels in said if labels[place] is not None]
        right = sum(label == true for true, label in labelled)
        wrong.append(1 - right / max(len(labelled), 1))
        counts = (right, len(labelled)), (len(labelled), len(said)), (right, len(said))
        rows.append([name, str(len(labelled)), *(share(*each) for each in counts)])
    columns = ["annotator", "labels", "right of its labels %", "clips with a label %", "right of all %"]
    table(f"{title}: {len(said)} clips", columns, rows)
    better = min(wrong[:-1])
    print(f"\nwrong: {100 * wrong[-1]:.1f} % of what both say, {100 * better:.1f} % of what the better one says alone")
    show_targets([("wrong labels, of the better one's", 0.5, wrong[-1] / better if better else float("nan"))])


def gender(crawl: Path, own: str, folder: Path, min_probability: float, most: float) -> None:
    from model_training.decoding.annotate import ExportedAnnotator

    known = [
        one
        for domain in ("classroom", "live")
        for one in segments(crawl, domain, most, least_seconds=2)
        if one.truth.get("gender") and one.truth.get("speaker") != "kathleen"
    ]
    ours = ExportedAnnotator(own, kinds=["gender"], min_probability=min_probability)
    said: list[Said] = []
    for part in (0, 1):
        other, these = (
            [(one.pcm, one.truth["gender"]) for one in known if (part_of(one.truth["speaker"], 2) == part) == same]
            for same in (False, True)
        )
        make(other, "gender", "mean", folder / "gender.onnx")
        both = [ours, OnnxClassifier(str(folder / "gender.onnx"), min_probability=min_probability)]
        said += asked("gender", both, these)
    report("Gender, speakers not trained on", ("a model of ours", "classifier"), said)


def events(crawl: Path, folder: Path, min_probability: float) -> None:
    """Sounds alone, then sounds under speech."""

    def sound(one: TrueSegment) -> str:
        return next((clip for clip in one.truth["clips"] if clip.startswith("esc10/")), "")

    # Kitchen noise comes with its recordings, from no sound of its own.
    alone, under = (
        [one for one in segments(crawl, domain) if one.truth.get("event") and sound(one)]
        for domain in ("sounds", "live")
    )
    said: dict[str, list[Said]] = {"alone": [], "under speech": []}
    for part in range(3):
        known = [(one.pcm, one.truth["event"]) for one in alone + under if part_of(sound(one), 3) != part]
        for which in STATISTICS:
            make(known, "events", which, folder / f"{which}.onnx", penalty=3e-3)
        both = [OnnxClassifier(str(folder / f"{which}.onnx"), min_probability=min_probability) for which in STATISTICS]
        for name, clips in (("alone", alone), ("under speech", under)):
            these = [(one.pcm, (one.truth["event"],)) for one in clips if part_of(sound(one), 3) == part]
            said[name] += asked("events", both, these)
    for name, found in said.items():
        report(f"Events {name}, sounds not trained on", [f"classifier, {which}" for which in STATISTICS], found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_crawl(parser)
    parser.add_argument("--own", metavar="FOLDER", help="an exported model that knows gender")
    parser.add_argument("--min-probability", type=float, default=0.5, help="below it an annotator abstains")
    parser.add_argument("--most", type=float, default=400, help="segments of a domain for gender (default %(default)s)")
    options = parser.parse_args()
    with crawl_folder(options.crawl) as crawl, tempfile.TemporaryDirectory() as folder:
        if options.own:
            gender(crawl, options.own, Path(folder), options.min_probability, options.most)
        events(crawl, Path(folder), options.min_probability)


if __name__ == "__main__":
    main()
