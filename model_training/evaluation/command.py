"""The command `eval`: checkpoints on test sets, and evaluations that were kept, side by side.

CKPT ... ──load──> model ──evaluate on sets──┐
eval.json ... ──read_results─────────────────┴──> Evaluations ──write_report──> tables, eval.html
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from model_training.config import s3_settings
from model_training.data.handoff import Handoff
from model_training.data.published import index_set
from model_training.data.reading import Reader
from model_training.decoding.decode import load
from model_training.evaluation.evaluate import evaluate
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.listen import reading
from model_training.evaluation.report import read_results, write_report, write_results
from model_training.evaluation.sets import labelled_sets, published_sets
from operators.errors import UserError

Writable = Callable[[str | Path], Path]
"""Returns a folder that can be written to. Raises UserError."""


def run(options: argparse.Namespace, writable: Writable) -> int:
    """Evaluate, print the tables, write eval.json, eval.jsonl and eval.html, and return the exit code.

    Raises UserError.
    """
    groups, methods = numbers("--groups", options.groups), options.methods.split(",")
    paths = [*options.checkpoints, *options.twin]
    kept = [path for path in paths if path.endswith(".json")]
    if not options.data and not options.set and len(kept) < len(paths):
        raise UserError("nothing to evaluate on: give --data with a hand-off, or --set with a set as published")
    handoff = Handoff.open(options.data) if options.data else None
    s3 = handoff.s3 if handoff is not None else s3_settings()
    sets = [index_set(argument) for argument in options.set]
    names = [one.name for one in sets]
    if handoff is not None:
        names += handoff.index(options.split).domain_names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two sets are called {repeated[0]}: name them, as in --set other-{repeated[0]}=PATH")
    out = writable(options.out) if options.out else None
    evaluations: list[Evaluation] = []
    for path, name in zip(paths, _names(paths)):
        if path in kept:
            evaluations.append(read_results(Path(path)))
            out = out or writable(Path(path).parent)
            continue
        loaded = load(options, path, methods)
        out = out or writable(loaded.path)
        # A step's folder says it itself.
        step = f" step {loaded.step}" if len(paths) > 1 and loaded.path != Path(path) else ""
        asked = labelled_sets(handoff, options.split, loaded) if handoff is not None else {}
        evaluations.append(
            evaluate(
                loaded.model,
                loaded.tokenizer,
                asked | published_sets(sets, loaded, s3),
                groups=groups,
                methods=methods,
                name=name + step,
                task=options.task,
                order=loaded.settings.data.task_order or None,  # type: ignore[arg-type]
                beam=options.beam,
                ctc_weight=options.ctc_weight,
                reverse_weight=options.reverse_weight,
                speaker=options.speaker,
                known_labels=loaded.known_labels,
                autocast=loaded.autocast,
            )
        )
        # A mistake with the next model costs nothing of this one.
        write_results(out, evaluations[-1], "eval" if len(evaluations) == 1 else f"eval-{name}")
    assert out is not None
    print(f"report: {write_report(out, evaluations, reading(Reader(s3)))}")
    return 0


def numbers(name: str, text: str | None) -> list[int] | None:
    """Return the numbers of an option such as 3,7,15. Raises UserError."""
    if not text:
        return None
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise UserError(f"{name} {text}: give numbers with commas between them, for example 3,7,15") from None


def _names(paths: Sequence[str]) -> list[str]:
    """Return a name for each model: its folder's, a step's with its run's, more of the path where two were alike."""
    folders = [Path(os.path.abspath(path)) for path in paths]
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        names = ["-".join(folder.parts[1:][-parts - folder.name.startswith("step-") :]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same model stands there twice: name each once")
