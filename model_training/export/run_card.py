"""The card of a checkpoint, which holds all sizes: what it is, from what data, how good, and where it ends.

trainer.json, handoff.json (where it is at hand), eval.json (where there is one) ──checkpoint_card──> README.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from model_training import config
from model_training.evaluation.evaluation import Evaluation
from model_training.export.card import LABELS, errors, front_matter, labels, results
from model_training.model.speech_model import SpeechModel
from model_training.training.checkpoint import Checkpoint
from model_training.training.choosing import score_of
from operators.errors import UserError
from operators.handoff_record import HandoffRecord
from operators.page.card import card, table


def checkpoint_card(
    found: Checkpoint, handoff: HandoffRecord | None, evaluation: Evaluation | None, license: str | None = None
) -> str:
    """Return the card as Markdown. `handoff` is what it was trained on, None: not at hand.

    Raises:
        UserError: it is no checkpoint of a speech-perception model.
    """
    record = found.record
    if "moe" not in record["settings"].get("model", {}):
        raise UserError(
            f"{found.path} is no checkpoint of 'train': there is a card for those, and for exported folders"
        )
    settings = config.restore(record["settings"])
    with torch.device("meta"):
        model = SpeechModel(settings.model, int(record["vocabulary"]))
    counts = {size: model.parameter_counts(size) for size in model.sizes}
    run = found.path.absolute().parent.name
    found_results = results(evaluation, [size for size in model.sizes if evaluation and size in evaluation.groups])
    rows = [[str(size), f"{each['total']:,}", f"{each['active']:,}"] for size, each in counts.items()]
    kind = "elastic experts, several sizes in one checkpoint" if len(rows) > 1 else "one size"
    return card(
        front_matter("pytorch", record.get("learnt"), model.sizes, run, found_results, license),
        f"# {run}",
        "Transcribes speech and says its language, age, gender, emotion and sound events, as far as it was taught. "
        f"A Conformer with CTC and an attention decoder; {kind}. `python -m model_training export . --out exported` "
        "makes folders of it that need no PyTorch.",
        "## Sizes",
        table(["routed experts", "parameters", "of them for one frame"], rows, 3),
        *_training(record, settings, handoff),
        *_quality(record, evaluation),
    )


def _training(record: Mapping[str, Any], settings: config.Settings, handoff: HandoffRecord | None) -> Iterator[str]:
    tasks = ", ".join(sorted(task for task, weight in settings.data.tasks.items() if weight))
    begun = f", begun from {Path(settings.train.init_from).name}" if settings.train.init_from else ""
    yield "## Training"
    yield f"Step {record['step']}{begun}; tasks: {tasks}; vocabulary {record['vocabulary']:,}. {LABELS}"
    if handoff is None:
        yield "What it was trained on was not at hand when this was written."
    else:
        splits = [[name, f"{split.clips:,}", f"{split.hours:.2f}"] for name, split in handoff.splits.items()]
        yield table(["split", "clips", "hours"], splits, 2)
        domains = [[name, f"{one.clips:,}", f"{one.hours:.2f}"] for name, one in sorted(handoff.domains.items())]
        if domains:
            yield table(["domain of train", "clips", "hours"], domains, 2)
    if known := {kind: names for kind, names in (record.get("learnt") or {}).items() if names}:
        yield table(["label", "that its data had"], [[kind, ", ".join(names)] for kind, names in sorted(known.items())])


def _quality(record: Mapping[str, Any], evaluation: Evaluation | None) -> Iterator[str]:
    yield "## Error rates"
    if (score := score_of(record)) is not None and score.error:
        yield f"On dev, while training: {score.error:.2f} % of tokens, greedy CTC, all sizes together."
    if evaluation is None:
        yield "Not evaluated when this was written."
        return
    yield "Character error rate in percent with its 95 % interval."
    yield errors(evaluation)
    if (accuracies := labels(evaluation)) is not None:
        yield "Labels besides the words, at the largest size."
        yield accuracies
