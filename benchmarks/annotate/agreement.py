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
from operators.clip import NamedOpinion
from operators.resampling import Estimate, estimate, ratio, redraws

PROBABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""below which both annotators of gender abstain, one after another."""


def part_of(name: str, parts: int) -> int:
    """Return in which part a speaker or sound lies: a function of its name."""
    return hashlib.sha256(name.encode()).digest()[0] % parts


Said = tuple[Any, list[Any]]
"""The true label of a clip, and the label of each annotator and of both: None where there is none."""
Told = tuple[Any, list[tuple[NamedOpinion, ...]]]
"""The true label of a clip, and what each annotator said of it."""


def asked(kind: str, annotators: Sequence[Annotator], clips: Sequence[tuple[np.ndarray, Any]]) -> list[Told]:
    """Return what is said of each clip. clips: pcm and the true label, of events a tuple of them."""
    heard = [Heard(pcm=pcm, text="") for pcm, _ in clips]
    told = [opinions(annotator, heard, [kind]) for annotator in annotators]
    return [(true, list(of_clip)) for (_, true), of_clip in zip(clips, zip(*told, strict=True), strict=True)]


def labels(kind: str, told: Sequence[Told], min_probability: float = 0.0) -> list[Said]:
    """Return the labels of what was said, where everybody abstains who is less sure than that."""
    found: list[Said] = []
    for true, of_clip in told:
        sure = [[each for each in said if (each.score or 0) >= min_probability] for said in of_clip]
        alone = [(each[0].labels if kind == "events" else each[0].labels[0]) if each else None for each in sure]
        agreed = agree([named for each in sure for named in each], {}, 2)
        found.append((true, [*alone, getattr(agreed, kind)]))
    return found


def report(title: str, names: Sequence[str], said: Sequence[Said]) -> None:
    """Print how right each annotator is, and what they agree on."""
    rows, wrong = [], []
    for place, name in enumerate([*names, "both agree"]):
        labelled = [(true, each[place]) for true, each in said if each[place] is not None]
        right = sum(label == true for true, label in labelled)
        wrong.append(1 - right / max(len(labelled), 1))
        counts = (right, len(labelled)), (len(labelled), len(said)), (right, len(said))
        rows.append([name, str(len(labelled)), *(share(*each) for each in counts)])
    columns = ["annotator", "labels", "right of its labels %", "clips with a label %", "right of all %"]
    table(f"{title}: {len(said)} clips", columns, rows)
    better = min(wrong[:-1])
    print(f"\nwrong: {100 * wrong[-1]:.1f} % of what both say, {100 * better:.1f} % of what the better one says alone")
    show_targets([("wrong labels, of the better one's", 0.5, wrong[-1] / better if better else float("nan"))])


def gender(crawl: Path, own: str, folder: Path, most: float) -> None:
    """Both annotators abstain below a probability, the same one: how right they are, and how often they answer."""
    from model_training.decoding.annotate import ExportedAnnotator

    known = [
        one
        for domain in ("classroom", "live")
        for one in segments(crawl, domain, most, least_seconds=2)
        if one.truth.get("gender") and one.truth.get("speaker") != "kathleen"
    ]
    ours = ExportedAnnotator(own, kinds=["gender"], min_probability=0)
    told: list[Told] = []
    speakers: list[str] = []
    children: list[bool] = []
    for part in (0, 1):
        these, others = (
            [one for one in known if (part_of(one.truth["speaker"], 2) == part) == same] for same in (True, False)
        )
        make([(one.pcm, one.truth["gender"]) for one in others], "gender", "mean", folder / "gender.onnx")
        both = [ours, OnnxClassifier(str(folder / "gender.onnx"), min_probability=0)]
        told += asked("gender", both, [(one.pcm, one.truth["gender"]) for one in these])
        speakers += [one.truth["speaker"] for one in these]
        children += [one.truth.get("age") == "child" for one in these]
    rows = []
    for who, chosen in (
        ("all", [True] * len(told)),
        ("grown-up", [not child for child in children]),
        ("children", children),
    ):
        some = [each for each, wanted in zip(told, chosen, strict=True) if wanted]
        voices = [speaker for speaker, wanted in zip(speakers, chosen, strict=True) if wanted]
        for least in PROBABILITIES:
            said = labels("gender", some, least)
            named = [[(true, each[place]) for true, each in said if each[place] is not None] for place in range(3)]
            right = [share(sum(true == label for true, label in each), len(each)) for each in named]
            worth = wrong_ratio(said, voices)
            interval = f"{worth.value:.2f} ({worth.low:.2f} to {worth.high:.2f})"
            rows.append([who, f"{least:g}", *right, share(len(named[2]), len(said)), interval])
    columns = ["voices", "abstain below", "a model of ours, right %", "classifier, right %", "both agree, right %"]
    columns += ["clips with a label %", "wrong of the better one's wrong (95 %)"]
    table(f"Gender, {len(set(speakers))} speakers not trained on, {len(told)} clips", columns, rows)


def wrong_ratio(said: Sequence[Said], voices: Sequence[str]) -> Estimate:
    """Return the share wrong where both agree over that of the better one alone, and its interval over speakers."""
    names = sorted(set(voices))
    wrong, labelled = np.zeros((len(names), 3)), np.zeros((len(names), 3))
    for voice, (true, each) in zip(voices, said, strict=True):
        labelled[names.index(voice)] += [label is not None for label in each]
        wrong[names.index(voice)] += [label is not None and label != true for label in each]

    def worth(draws: np.ndarray) -> np.ndarray:
        shares = ratio(draws @ wrong, draws @ labelled)
        return ratio(shares[:, 2], np.nanmin(shares[:, :2], axis=1))

    drawn = np.concatenate([worth(draws) for draws in redraws(len(names), np.random.default_rng(0))])
    return estimate(worth(np.ones((1, len(names))))[0], drawn)


def events(crawl: Path, folder: Path, min_probability: float) -> None:
    """Sounds alone, then sounds under speech."""

    def sound(one: TrueSegment) -> str:
        return next((clip for clip in one.truth["clips"] if clip.startswith("esc10/")), "")

    # Kitchen noise comes with its recordings, from no sound of its own.
    alone, under = (
        [one for one in segments(crawl, domain) if one.truth.get("event") and sound(one)]
        for domain in ("sounds", "live")
    )
    said: dict[str, list[Told]] = {"alone": [], "under speech": []}
    for part in range(3):
        known = [(one.pcm, one.truth["event"]) for one in alone + under if part_of(sound(one), 3) != part]
        for which in STATISTICS:
            make(known, "events", which, folder / f"{which}.onnx", penalty=3e-3)
        both = [OnnxClassifier(str(folder / f"{which}.onnx"), min_probability=min_probability) for which in STATISTICS]
        for name, clips in (("alone", alone), ("under speech", under)):
            these = [(one.pcm, (one.truth["event"],)) for one in clips if part_of(sound(one), 3) == part]
            said[name] += asked("events", both, these)
    for name, found in said.items():
        names = [f"classifier, {which}" for which in STATISTICS]
        report(f"Events {name}, sounds not trained on", names, labels("events", found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_crawl(parser)
    parser.add_argument("--own", metavar="FOLDER", help="an exported model that knows gender")
    parser.add_argument("--min-probability", type=float, default=0.5, help="of events; below it an annotator abstains")
    parser.add_argument("--most", type=float, default=400, help="segments of a domain for gender (default %(default)s)")
    options = parser.parse_args()
    with crawl_folder(options.crawl) as crawl, tempfile.TemporaryDirectory() as folder:
        if options.own:
            gender(crawl, options.own, Path(folder), options.most)
        events(crawl, Path(folder), options.min_probability)


if __name__ == "__main__":
    main()
