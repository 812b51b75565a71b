"""Training of both stages over the loop that all models share (model_training/train.py).

settings, hand-off ──begin──> Run (OsumSource, OsumLearner or WhisperLearner) ──drive──> RUN/step-...
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.model.device import autocast_dtype
from model_training.osum import build as building
from model_training.osum.data import ChatWriter, OsumBatch, OsumSource, known_labels
from model_training.osum.learner import OsumLearner, rate_of
from model_training.osum.parts.llm import RANDOM, Chat, make_random
from model_training.osum.settings import OsumSettings
from model_training.osum.tasks import TASKS, Asked, Prompts, target, transcript
from model_training.train import Trained, drive
from model_training.training.optimizer import make_optimizer
from model_training.training.run import Run, averaging, check_shares, make_folder
from model_training.training.workers import Workers
from operators.index import Row

RANDOM_FOLDER = "random-llm"


def train(data: str, out: str | Path, settings: OsumSettings) -> Trained:
    """Train on a hand-off directory, or go on with the run in `out`.

    Raises:
        UserError: unusable data or parts, a run in `out` with other settings, a diverged run.
    """
    if settings.stage == 1:
        from model_training.osum.stage1 import begin as begin_whisper

        return drive(settings.train, lambda device, workers: begin_whisper(data, out, settings, device, workers))
    return drive(settings.train, lambda device, workers: begin(data, out, settings, device, workers))


def begin(data: str, out: str | Path, settings: OsumSettings, device: torch.device, workers: Workers) -> Run[OsumBatch]:
    """Build a run of stage 2 at step 0. Raises UserError."""
    check_shares(settings, workers)
    handoff = Handoff.open(data)
    folder = make_folder(out)
    prompts = Prompts.load(settings.data.prompts)
    autocast = autocast_dtype(settings.train.precision, device)
    random = folder / RANDOM_FOLDER if settings.model.llm.source == RANDOM else None
    if random is not None:
        _make_random(random, handoff, settings, prompts, workers)
    torch.manual_seed(settings.train.seed)
    built = building.build(settings, autocast, random=random)
    model = built.model.to(device)
    writer = ChatWriter(model.chat, prompts, settings.data.languages)
    source = OsumSource(handoff, settings, writer, model.bins)
    aligned = any(phase.align for phase in settings.phases)
    units = _units(handoff.index("train"), model.chat) if aligned else ()
    learner = OsumLearner(model, settings, autocast, units)
    return Run(
        folder=folder,
        workers=workers,
        source=source,
        learner=learner,
        optimizer=make_optimizer(model, settings.optimizer, rate_of(settings)),
        averaged=averaging(learner),
        record=source.record(len(model.chat.tokenizer), built.digests["llm"], built.digests),
        texts={"prompts.json": json.dumps(prompts.table, ensure_ascii=False)},
    )


def _make_random(folder: Path, handoff: Handoff, settings: OsumSettings, prompts: Prompts, workers: Workers) -> None:
    """Write the random language model where it is not there; of several workers the first does."""
    if workers.is_main and not (folder / "config.json").exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        make_random(
            temporary, settings.model.llm, [*prompts.texts, *_labels(handoff.index("train"))], settings.train.seed
        )
        os.replace(temporary, folder)
    workers.barrier()


def _units(index: Index, chat: Chat) -> tuple[int, ...]:
    """Return a space, the blank of alignment, then the tokens of a few thousand transcripts."""
    texts = (transcript(row.label) for row in _some(index))
    return (chat.space, *sorted({token for text in texts for token in chat.words(text)} - {chat.space}))


def _some(index: Index) -> list[Row]:
    return [index.row(number) for number in range(0, len(index), max(1, len(index) // 5_000))]


def _labels(index: Index) -> list[str]:
    """Return the texts of a few thousand clips."""
    labels = known_labels(index)
    return [text for row in _some(index) for task in TASKS.values() if (text := target(Asked(task), row, labels))]
