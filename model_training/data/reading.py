"""How the audio of a row is read, and what the elastic model's batches hold.

    row ──Reader: byte range, decode──> pcm ──Augment──> features ──CMVN, masks──┐
     └──targets(row): ids for CTC and for the decoder ─────────────> Batch <─────┘

loading.py makes the batches. Shapes: B clips, T frames of the longest, 80 mel bins, U labels of CTC, L tokens of the
decoder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from model_training.data.audio import BadSample, decode
from model_training.data.augment import Augment, change_speed
from model_training.data.batching import Planner
from model_training.data.features import MIN_FRAMES, Cmvn, ctc_frames, subsampled
from model_training.data.index import Index
from model_training.data.loading import ClipBatches, Sample, only, padded, tensor
from operators.errors import UserError
from operators.filterbank import BINS, filterbank
from operators.index import Row
from operators.shard import feature_frames
from operators.storage.base import S3Settings
from operators.storage.fetch import RangedFileForC, locate

if TYPE_CHECKING:
    from model_training.data.device_features import DeviceFilterbank

__all__ = ["BadSample", "Batch", "Batches", "Reader", "TargetSequences", "check_shards", "load_noises"]

EOT = 3
"""`<eot>`, which pads decoder inputs."""
_IGNORED = -1
"""Pads decoder targets: no loss."""
_LENGTH_TOLERANCE = 0.02  # a manifest's duration may round; more would break the plan's memory bound or hide a loss


class TargetSequences(Protocol):
    """The sequences are what the model is to say of a clip, in ids."""

    @property
    def ctc(self) -> Sequence[int]: ...
    @property
    def inputs(self) -> Sequence[int]: ...
    @property
    def targets(self) -> Sequence[int]: ...
    @property
    def content(self) -> tuple[int, int]: ...
    @property
    def events_known(self) -> bool: ...


Targets = Callable[[Row], TargetSequences]


@dataclass(frozen=True, slots=True)
class Reader:
    """A Reader reads the audio of rows by byte range. Picklable: connections belong to the process that made them."""

    s3: S3Settings = field(default_factory=S3Settings)

    def read(self, row: Row) -> np.ndarray:
        """Return the clip's samples, int16 [T] at 16 kHz.

        Raises:
            BadSample: corrupt, cut off, empty, not finite, or not as long as the index says.
            UserError: the shard is gone or cannot be read, or its store cannot be reached.
        """
        try:
            pcm = self._decode(row)
        except FileNotFoundError:
            raise UserError(f"the shard {row.shard} is gone: bring it back, or run the hand-off again") from None
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {row.shard}: {error.strerror or error}") from None
        frames = feature_frames(len(pcm))
        if frames < MIN_FRAMES:
            raise BadSample(row.clip_id, "too_short", f"{len(pcm)} samples")
        if abs(frames - row.frames) > max(2, _LENGTH_TOLERANCE * row.frames):
            raise BadSample(row.clip_id, "length_differs", f"{frames} frames instead of {row.frames}")
        return pcm

    def _decode(self, row: Row) -> np.ndarray:
        store, key = locate(row.shard, self.s3)
        if row.start_sample is None and row.end_sample is None:
            data = store.read_range(key, row.offset, row.size)
            if len(data) < row.size:
                raise BadSample(row.clip_id, "truncated", f"{row.shard} ends within the clip")
            return decode(row.clip_id, io.BytesIO(data))
        file = RangedFileForC(store, key, row.offset, row.size)
        try:
            return decode(row.clip_id, cast(BinaryIO, file), row.start_sample, row.end_sample)
        except BadSample:
            if file.failure is not None:  # the store's fault, not the clip's
                raise file.failure from None
            raise


def check_shards(index: Index, s3: S3Settings | None = None) -> None:
    """Check that every shard of an index is there and as long as its clips need. Raises UserError naming one."""

    def fault(item: tuple[str, int]) -> str | None:
        uri, end = item
        try:
            store, key = locate(uri, s3)
            size = store.size(key)
        except FileNotFoundError:
            return f"the shard {uri} is gone"
        return f"the shard {uri} has {size} bytes, but its clips need {end}" if size < end else None

    with ThreadPoolExecutor(32) as pool:
        faults = [text for text in pool.map(fault, index.shard_ends().items()) if text]
    if faults:
        more = f" (and {len(faults) - 1} more shards)" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}: bring it back, or run the hand-off again")


def load_noises(uris: Sequence[str], s3: S3Settings | None = None) -> list[np.ndarray]:
    """Return recordings of noise for `Augment`, int16 [T] at 16 kHz. Raises UserError naming one that cannot be
    read.
    """
    noises = []
    for uri in uris:
        try:
            store, key = locate(uri, s3)
            noises.append(decode(uri, io.BytesIO(store.read(key))))
        except FileNotFoundError:
            raise UserError(f"the noise recording {uri} is not there: fix the path") from None
        except BadSample as bad:
            raise UserError(f"the noise recording {uri} cannot be used ({bad.detail}): leave it out") from None
    return noises


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A Batch holds tensors and what they are of. B is 0 when none of its clips could be used."""

    features_BT80: Tensor
    """float32: normalised, masked, 0 after a clip's end."""
    feature_lengths_B: Tensor
    ctc_targets_BU: Tensor
    """int64, 0 (blank) after the end."""
    ctc_lengths_B: Tensor
    decoder_inputs_BL: Tensor
    """int64, `<eot>` after the end."""
    decoder_targets_BL: Tensor
    """int64, -1 where there is no loss."""
    decoder_lengths_B: Tensor
    content_B2: Tensor
    """int64: where text and events begin and end among the decoder's targets"""
    events_known_B: Tensor
    """bool: are all events of the clip in the targets, so that the absence of one says something?"""
    clip_ids: list[str]
    rows: list[Row]
    global_batch: int
    bad: tuple[BadSample, ...]
    """the clips that are missing from it."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def only(self, wanted_B: list[bool]) -> Batch:
        """Return some of its clips, with the padding as it was."""
        return only(self, wanted_B)

    @staticmethod
    def of_none(bad: tuple[BadSample, ...]) -> Batch:
        """Return a batch that only says which clips are missing."""
        return Batch(**{name: tensor(value) for name, value in collate([]).items()}, global_batch=-1, bad=bad)


class Batches(ClipBatches[Batch]):
    """The batches are of the elastic model, see `ClipBatches`.

    `targets` gives a clip's ids, or is a list of (weight, targets), of which each clip draws one; where the drawn one
    has nothing for the decoder to learn from a clip, the first of weight above 0 that has is used.
    """

    def __init__(
        self,
        index: Index,
        planner: Planner,
        reader: Reader,
        targets: Targets | Sequence[tuple[float, Targets]],
        cmvn: Cmvn,
        augment: Augment | None = None,
        **share: Any,
    ) -> None:
        """Take what batches are made of; `share` as in `ClipBatches`."""
        weighted = [(1.0, targets)] if callable(targets) else list(targets)
        super().__init__(index, planner, reader, FilterbankForm(weighted, cmvn, augment), **share)


class FilterbankForm:
    """A FilterbankForm makes a clip into filterbank features, augmented where asked, and ids of one task."""

    batch = Batch

    def __init__(self, targets: Sequence[tuple[float, Targets]], cmvn: Cmvn, augment: Augment | None) -> None:
        self._targets, self._cmvn, self._augment = [call for _, call in targets], cmvn, augment
        self._shares = np.cumsum([weight for weight, _ in targets])
        self._drawable = [number for number, (weight, _) in enumerate(targets) if weight > 0]

    def targets(self, row: Row, generator: np.random.Generator) -> TargetSequences:
        """Return the ids of the task drawn. Raises BadSample where no task has anything to learn."""
        drawn = int(np.searchsorted(self._shares, generator.random() * self._shares[-1], side="right"))
        for number in dict.fromkeys((drawn, *self._drawable)):
            targets = self._targets[number](row)
            # The last target is the end of the sequence, of which alone nothing is learnt.
            if any(target != _IGNORED for target in targets.targets[:-1]):
                return targets
        if targets.ctc:  # nothing for the decoder
            return targets
        raise BadSample(row.clip_id, "empty_label", "the label holds no token")

    def features(self, row: Row, pcm: np.ndarray, targets: TargetSequences, generator: np.random.Generator) -> Any:
        """Return normalised features, float32 [F, 80]. Raises BadSample where CTC cannot fit the label into them."""
        features_F80 = self._cmvn.apply(filterbank(self.heard(row, pcm, targets, generator)))
        return self._augment.masks(features_F80, generator) if self._augment else features_F80

    def heard(self, row: Row, pcm: np.ndarray, targets: TargetSequences, generator: np.random.Generator) -> np.ndarray:
        """Return the clip's samples, augmented, int16 [T]. Raises BadSample where CTC cannot fit its label in."""
        needed = ctc_frames(targets.ctc)
        if needed > subsampled(feature_frames(len(pcm))):
            frames = subsampled(feature_frames(len(pcm)))
            raise BadSample(row.clip_id, "label_too_long", f"{frames} encoder frames, {needed} needed by the label")
        if not self._augment:
            return pcm
        faster = change_speed(pcm, self._augment.speed(generator))
        # Played faster, a clip may become too short for its label: then it keeps its speed.
        if max(needed, 1) <= subsampled(feature_frames(len(faster))):
            pcm = faster
        return self._augment.samples(pcm, generator)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what a Batch holds of these clips."""
        return collate(samples)


class Waveform(NamedTuple):
    """A Waveform is what the device makes a clip's features of."""

    pcm: np.ndarray
    """int16 [T]"""
    bands: list[tuple[int, int]]
    """masked bins, [first, last)"""
    stretches: list[tuple[int, int]]
    """masked frames, [first, last)"""


class WaveformForm(FilterbankForm):
    """A WaveformForm leaves filterbank, normalisation and masks to the device: loaders decode and augment samples.

    The draws are FilterbankForm's, and so are the features but for rounding.
    """

    def __init__(
        self, targets: Sequence[tuple[float, Targets]], cmvn: Cmvn, augment: Augment | None, device: torch.device
    ) -> None:
        super().__init__(targets, cmvn, augment)
        self._device = device
        self._filterbank: DeviceFilterbank | None = None
        """made where batches come out: loaders have a copy of this form, and nothing to do on the device"""

    def features(self, row: Row, pcm: np.ndarray, targets: TargetSequences, generator: np.random.Generator) -> Waveform:
        """Return the clip's samples and what to mask. Raises BadSample where CTC cannot fit the label into them."""
        pcm = self.heard(row, pcm, targets, generator)
        masked = self._augment.masked(feature_frames(len(pcm)), BINS, generator) if self._augment else ([], [])
        return Waveform(pcm, *masked)

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what `batch` makes a Batch of."""
        heard: list[Waveform] = [sample.features for sample in samples]
        pcm_BT = np.zeros((len(heard), max((len(one.pcm) for one in heard), default=0)), np.int16)
        for place, one in enumerate(heard):
            pcm_BT[place, : len(one.pcm)] = one.pcm
        return {
            "pcm_BT": pcm_BT,
            "bands_BM2": _spans([one.bands for one in heard]),
            "stretches_BM2": _spans([one.stretches for one in heard]),
            "feature_lengths_B": np.array([feature_frames(len(one.pcm)) for one in heard], np.int64),
        } | collate_targets(samples)

    def batch(  # type: ignore[override]
        self, *, pcm_BT: Tensor, bands_BM2: Tensor, stretches_BM2: Tensor, feature_lengths_B: Tensor, **others: Any
    ) -> Batch:
        """Return the batch, its features on the device."""
        from model_training.data.device_features import DeviceFilterbank

        if self._filterbank is None:
            self._filterbank = DeviceFilterbank.of(self._cmvn, self._device)
        features_BT80 = self._filterbank.features(pcm_BT, feature_lengths_B, bands_BM2, stretches_BM2)
        return Batch(features_BT80=features_BT80, feature_lengths_B=feature_lengths_B, **others)


def _spans(masks: list[list[tuple[int, int]]]) -> np.ndarray:
    """Return every clip's masks, of which all have as many, int64 [B, M, 2]."""
    return np.array(masks, np.int64).reshape(len(masks), len(masks[0]) if masks else 0, 2)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the arrays of a Batch, padded to the longest clip."""
    lengths_B = np.array([len(sample.features) for sample in samples], np.int64)
    features_BT80 = np.zeros((len(samples), lengths_B.max(initial=0), BINS), np.float32)
    for place, sample in enumerate(samples):
        features_BT80[place, : lengths_B[place]] = sample.features
    return {"features_BT80": features_BT80, "feature_lengths_B": lengths_B} | collate_targets(samples)


def collate_targets(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what of a Batch is not heard, padded to the longest clip."""
    ctc_BU, ctc_lengths_B = padded([sample.targets.ctc for sample in samples], 0)
    inputs_BL, decoder_lengths_B = padded([sample.targets.inputs for sample in samples], EOT)
    targets_BL, _ = padded([sample.targets.targets for sample in samples], _IGNORED)
    return {
        "ctc_targets_BU": ctc_BU,
        "ctc_lengths_B": ctc_lengths_B,
        "decoder_inputs_BL": inputs_BL,
        "decoder_targets_BL": targets_BL,
        "decoder_lengths_B": decoder_lengths_B,
        "content_B2": np.array([sample.targets.content for sample in samples], np.int64).reshape(-1, 2),
        "events_known_B": np.array([sample.targets.events_known for sample in samples], bool),
        "clip_ids": [sample.row.clip_id for sample in samples],
        "rows": [sample.row for sample in samples],
    }
