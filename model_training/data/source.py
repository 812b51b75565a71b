"""The data of a training run: a hand-off's training and development splits, cut into batches as the settings say.

handoff ──index──> Planner ──> Batches ──> micro-batches of one worker, from any step on
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from model_training.config import LoadingSettings, Settings, TrainSettings
from model_training.data.audio import BadSample
from model_training.data.augment import Augment
from model_training.data.batching import BatchPlan, Planner, Unusable
from model_training.data.features import Cmvn
from model_training.data.handoff import Handoff
from model_training.data.hours import FRAMES_PER_HOUR, within
from model_training.data.index import Index
from model_training.data.loading import ClipBatches, Form
from model_training.data.reading import Batch, FilterbankForm, Reader, WaveformForm, check_shards, load_noises
from model_training.data.speaker_labels import SpeakerLabels, forgetful
from model_training.text.perception import Targets, build_targets, text_ends
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES
from operators.errors import UserError
from operators.index import Row

OnBad = Callable[[str, str, str], None]
"""Called with the clip's id, the reason and a detail."""


B = TypeVar("B", bound=Sized)


class ClipSource(ABC, Generic[B]):
    """A ClipSource is the training and development data of a hand-off, cut into batches, whatever the model.

    Args:
        stretch: the most that augmentation lengthens a clip.
        needs_text: whether a clip without a transcript is of no use.
    """

    def __init__(
        self,
        handoff: Handoff,
        data: LoadingSettings,
        train: TrainSettings,
        *,
        stretch: float = 1.0,
        needs_text: bool = True,
    ) -> None:
        self.handoff, self._data, self._eval_clips = handoff, data, train.eval_clips
        self.reader = Reader(handoff.s3)
        self.index = handoff.index("train")
        if not len(self.index):
            raise UserError(f"{handoff.uri}: the split train is empty; hand off a run that kept something")
        check_shards(self.index, handoff.s3)
        plan = BatchPlan(max_frames=data.max_frames, max_clips=data.max_clips, seed=train.seed)
        limits: dict[str, Any] = {
            "min_frames": data.min_clip_frames,
            "max_clip_frames": data.max_clip_frames,
            "needs_text": needs_text,
        }
        weights = handoff.domain_weights()
        self.cap = ""
        """What `data.hours` leaves, in words; empty: all."""
        self._all: Planner | None = None
        if data.hours:
            self._all = Planner(self.index, plan, weights, stretch=stretch, **limits)
            self.index = self._capped(self.index, self._all.usable(), data.hours, train.seed)
        favoured_N, favour = self.favoured()
        self.planner = Planner(
            self.index,
            plan,
            weights,
            stretch=stretch,
            favoured_N=favoured_N,
            favour=favour,
            **limits,
        )
        self.dev = handoff.index("dev") if handoff.has("dev") else None
        self.dev_planner = Planner(self.dev, plan, **limits) if self.dev is not None and len(self.dev) else None
        self.fingerprint = handoff.fingerprint
        self.foreign: list[str] = []
        """Labels of clips that this model does not know."""

    def _capped(self, index: Index, usable_N: np.ndarray, hours: float, seed: int) -> Index:
        kept = index.only(within(index, usable_N, hours, seed, self.handoff.uri))
        there, left = (
            int(frames.sum(dtype=np.int64)) / FRAMES_PER_HOUR for frames in (index.frames[usable_N], kept.frames)
        )
        self.cap = f"data.hours={hours:g}: {len(kept)} of {usable_N.sum()} clips, {left:.2f} of {there:.2f} h"
        return kept

    @property
    def hours(self) -> float:
        """Return the hours of the clips that may be trained on."""
        return int(self.index.frames.sum(dtype=np.int64)) / FRAMES_PER_HOUR

    def favoured(self) -> tuple[np.ndarray | None, float]:
        """Return which clips of train are drawn more often than others, bool [N] or None, and how many times."""
        return None, 1.0

    @abstractmethod
    def form(self, split: str) -> Form[B]:
        """Return what the clips of train or dev become."""

    def unusable(self) -> Iterator[Unusable]:
        """Yield the clips of train and dev in no batch: too long or too short for the settings, or for their labels."""
        for planner in (self._all or self.planner, self.dev_planner):
            if planner is not None:
                yield from planner.unusable()

    def batches(self, first: int, on_bad: OnBad, *, rank: int = 0, world: int = 1) -> Generator[B, None, None]:
        """Yield this worker's micro-batches without end, from global batch `first` on. Closing ends its loaders."""
        yield from ClipBatches(
            self.index,
            self.planner,
            self.reader,
            self.form("train"),
            first_global_batch=first,
            rank=rank,
            world=world,
            micro_batches=self._data.micro_batches,
            workers=self._data.loaders,
            on_bad=on_bad,
        )

    def dev_batches(self, on_bad: OnBad) -> Iterator[B]:
        """Yield about `eval_clips` clips of dev, the same each time, as they are."""
        if self.dev is None or self.dev_planner is None:
            return
        last = self.dev_planner.batches_per_epoch(0)
        batches = ClipBatches(
            self.dev, self.dev_planner, self.reader, self.form("dev"), last_global_batch=last, on_bad=on_bad
        )
        seen = 0
        for batch in batches:
            if seen >= self._eval_clips:
                return
            seen += len(batch)
            yield batch


class Source(ClipSource[Batch]):
    """A Source is the data of the elastic model."""

    def __init__(
        self, handoff: Handoff, tokenizer: Tokenizer, settings: Settings, device: torch.device | None = None
    ) -> None:
        data = settings.data
        self.tokenizer, self.settings = tokenizer, settings
        self._device = device or torch.device("cpu")
        self.cmvn = handoff.cmvn()
        noises = load_noises(data.augment.noises, handoff.s3)
        self.augment = Augment(data.augment, noises)
        super().__init__(handoff, data, settings.train, stretch=self.augment.settings.stretch)
        scheme = tokenizer.scheme
        self.known_labels = {
            kind: sorted(
                {known for label in self.index.labels(kind) if (known := scheme.known(kind, label)) is not None}
            )
            for kind in (*ATTRIBUTES, "event")
        }
        """The labels that any clip of train has: the model can answer with no others."""
        for task, weight in data.tasks.items():
            if weight and not self.known_labels.get(task, [task]):
                raise UserError(
                    f"data.tasks: no clip of {handoff.uri} has a label for {task}; take it out, or label some clips"
                )
        self.foreign = sorted(
            f"{kind}={label}"
            for kind in self.known_labels
            for label in self.index.labels(kind)
            if scheme.known(kind, label) is None
        )
        self.open_events = tokenizer.ids_of("event") if self.known_labels["event"] else range(0)
        """Tokens whose absence from a clip that nobody labelled with events says nothing. None where no clip has
        any.
        """

    def go_on_from(self, cmvn: Cmvn | None, known_labels: Mapping[str, Sequence[str]]) -> None:
        """Take over what weights bring along: the normalisation that they expect, and labels that they know.

        What this data says nothing of would otherwise be unlearnt as if it were never there.
        """
        self.cmvn = cmvn or self.cmvn
        for kind, labels in known_labels.items():
            ours = self.tokenizer.scheme.labels(kind)
            kept = {label for label in labels if label in ours}
            self.known_labels[kind] = sorted(kept.union(self.known_labels.get(kind, ())))
        if self.known_labels["event"]:
            self.open_events = self.tokenizer.ids_of("event")

    def favoured(self) -> tuple[np.ndarray | None, float]:
        """Return the clips that have a label for the speaker head; of languages nearly all have one."""
        data, kinds = self.settings.data, [k for k in self.settings.model.speaker_head.attributes if k != "language"]
        if data.labelled_weight == 1:
            return None, 1.0
        labelled_N = self.index.labelled(kinds)
        if data.attribute_dropout:
            for number in np.flatnonzero(labelled_N):
                row = forgetful(self.index.row(int(number)), data.attribute_dropout)
                labelled_N[number] = any(getattr(row, kind) for kind in kinds)
        return labelled_N, data.labelled_weight

    def speaker_labels(self) -> SpeakerLabels | None:
        """Return what the speaker head is taught; None where the model has none.

        Raises:
            UserError: nobody knows a label of an attribute that it shall answer.
        """
        kinds = self.settings.model.speaker_head.attributes
        for kind in kinds:
            if not self.known_labels[kind]:
                raise UserError(
                    f"model.speaker_head.attributes: no clip of {self.handoff.uri} has a label for {kind}; take it "
                    "out, or label some clips"
                )
        if not kinds:
            return None
        counts = {kind: self.index.label_counts(kind) for kind in kinds}
        known = {kind: self.known_labels[kind] for kind in kinds}
        return SpeakerLabels.of(known, counts, self.tokenizer, self.settings.data.attribute_dropout)

    def text_ends(self) -> list[int] | None:
        """Return the tokens that end a text which attributes follow; None where text comes last."""
        if (self.settings.data.task_order or self.tokenizer.scheme.order) != "text_first":
            return None
        return text_ends(self.tokenizer, self.known_labels)

    def form(self, split: str) -> FilterbankForm:
        """Return what clips become: augmented and of drawn tasks in training, as they are on dev."""
        tasks = [(weight, self.targets(task)) for task, weight in self.settings.data.tasks.items()]
        augment = None if split == "dev" else self.augment
        if split == "dev":
            tasks = [(1.0, self.targets("transcribe"))]
        if self.settings.data.features == "device":
            return WaveformForm(tasks, self.cmvn, augment, self._device)
        return FilterbankForm(tasks, self.cmvn, augment)

    def targets(self, task: str) -> TaskTargets:
        """Return what makes a clip's ids for one task."""
        return TaskTargets(self.tokenizer, task, self.settings.data.task_order, self.settings.data.attribute_dropout)


@dataclass(frozen=True)
class TaskTargets:
    """What makes a clip's ids for one task.

    Args:
        attribute_dropout: share of attribute labels treated as unknown, the same ones in every epoch.
    """

    tokenizer: Tokenizer
    task: str
    order: str
    attribute_dropout: float = 0.0

    def __call__(self, row: Row) -> Targets:
        """Return the ids of a clip.

        Raises:
            BadSample: the tokenizer cannot spell its label: learning it with a gap would teach to leave words out.
        """
        row = forgetful(row, self.attribute_dropout)
        unknown = self.tokenizer.unknown(row.label, row.language)
        if unknown:
            raise BadSample(row.clip_id, "unknown_token", f"the tokenizer has no unit for {' '.join(unknown)}")
        return build_targets(row, self.tokenizer, task=self.task, order=self.order or None)  # type: ignore[arg-type]
