"""Voice activity: which samples of a recording are speech, by one of three engines behind one small protocol.

    int16 PCM ──engine.scores──> Scores (speech probability per frame) ──hysteresis──> list[Span] in samples

    pyannote   whisperX's own detector; its weights ship inside the whisperx wheel (default)
    silero     Silero VAD; weights ship inside the silero-vad wheel
    fsmn       FunASR's FSMN-VAD; an ONNX directory, a FunASR directory, or a hub name

An engine only scores; one hysteresis turns every engine's scores into spans, so thresholds mean the same everywhere and
the engines can be compared. One call is one piece of a recording: nothing is remembered between calls. Memory is
bounded by the length of the piece (8 bytes a sample beside the PCM) and one batch of windows. Same samples and same
settings give the same spans; what may move the last bit of a score is in docs/benchmarks/curation.md.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.speech import fsmn


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores are the speech probability per frame: float32 [frames]. Frame i speaks for `hop` samples from `first + i *
    hop` on.
    """

    values: np.ndarray
    first: int
    hop: int


class VoiceActivity(Protocol):
    """A VoiceActivity is what the segmenter asks of an engine."""

    def scores(self, pcm: np.ndarray) -> Scores:
        """Return the speech probability per frame of `pcm`: int16 [samples], 16 kHz mono."""
        ...

    def speech(self, pcm: np.ndarray) -> list[Span]:
        """Return spans of `pcm` that hold speech: ordered, disjoint, inside the array. No speech is an empty list."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Thresholds say how scores become spans: on above `onset`, off below `offset`, short dips filled, short blips
    dropped.
    """

    onset: float
    offset: float
    min_speech_seconds: float
    min_silence_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.offset <= self.onset < 1:
            raise UserError(f"vad: want 0 < offset <= onset < 1, got onset={self.onset} offset={self.offset}")
        if self.min_speech_seconds < 0 or self.min_silence_seconds < 0:
            raise UserError("vad: min_speech_seconds and min_silence_seconds cannot be negative")


def hysteresis(scores: Scores, total: int, thresholds: Thresholds) -> list[Span]:
    """Return spans of speech in an array of `total` samples: ordered, disjoint, none empty, `min_silence_seconds`
    apart.

    The rule is pyannote's and whisperX's Binarize (Gelly and Gauvain, Interspeech 2015): a frame above `onset` opens a
    span, a frame below `offset` closes it. Then gaps shorter than `min_silence_seconds` are filled, and only then spans
    shorter than `min_speech_seconds` dropped, so that a word broken by one weak frame is not lost.
    """
    frames = len(scores.values)
    if frames == 0 or total == 0:
        return []
    turn = np.where(scores.values > thresholds.onset, 1, 0) - np.where(scores.values < thresholds.offset, 1, 0)
    latest = np.maximum.accumulate(np.where(turn != 0, np.arange(frames), 0))  # the last frame that decided
    active = np.concatenate(([False], turn[latest] > 0, [False]))
    edges = np.flatnonzero(active[1:] != active[:-1]).reshape(-1, 2)  # [first active frame, first inactive frame) pairs
    starts = np.where(edges[:, 0] == 0, 0, scores.first + edges[:, 0] * scores.hop)
    ends = np.where(edges[:, 1] == frames, total, scores.first + edges[:, 1] * scores.hop)
    starts, ends = np.clip(starts, 0, total), np.clip(ends, 0, total)

    min_silence = round(thresholds.min_silence_seconds * SAMPLE_RATE)
    min_speech = max(1, round(thresholds.min_speech_seconds * SAMPLE_RATE))
    merged: list[list[int]] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if merged and start - merged[-1][1] < min_silence:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    return [Span(start, end) for start, end in merged if end - start >= min_speech]


class _Engine:
    """What the engines share: thresholds, and spans out of scores."""

    def __init__(self, onset: float, offset: float, min_speech_seconds: float, min_silence_seconds: float) -> None:
        self.thresholds = Thresholds(
            onset=onset,
            offset=offset,
            min_speech_seconds=min_speech_seconds,
            min_silence_seconds=min_silence_seconds,
        )

    def scores(self, pcm: np.ndarray) -> Scores:
        raise NotImplementedError

    def speech(self, pcm: np.ndarray) -> list[Span]:
        return hysteresis(self.scores(pcm), len(pcm), self.thresholds)


class PyannoteVad(_Engine):
    """A PyannoteVad is whisperX's voice activity detector: pyannote segmentation (SincNet, LSTM), 5-s windows, 16.9-ms
    frames.

    `step` seconds between windows is the price: every second is computed 5 / step times. whisperX's own step is 0.5.
    Where windows overlap their scores are averaged under a Hamming window; where they do not (step 5) a frame at a
    window's edge has heard one side only. `half` runs the network in float16 and needs a CUDA device.
    `model` None is the checkpoint inside the whisperx wheel, unmodified and read without network.
    whisperX's own offset is 0.363; 0.2 loses less speech in noise (docs/benchmarks/curation.md).

    Source: whisperX (Bain et al., arXiv:2303.00747), section 3.1; Bredin and Laurent, Interspeech 2021.
    """

    WINDOW_SECONDS = 5.0

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        step: float = 2.5,
        batch_size: int = 8,
        onset: float = 0.5,
        offset: float = 0.2,
        min_speech_seconds: float = 0.1,
        min_silence_seconds: float = 0.1,
        device: str = "cpu",
        half: bool = False,
    ) -> None:
        super().__init__(onset, offset, min_speech_seconds, min_silence_seconds)
        if not 0 < step <= self.WINDOW_SECONDS:
            raise UserError(f"vad: pyannote's step must be above 0 and at most {self.WINDOW_SECONDS} s, got {step}")
        if batch_size < 1:
            raise UserError(f"vad: batch_size must be at least 1, got {batch_size}")
        if half and not device.startswith("cuda"):
            raise UserError("vad: half precision needs device=cuda; set half=false or choose a GPU")
        checkpoint = Path(model) if model else _package_folder("whisperx") / "assets" / "pytorch_model.bin"
        if checkpoint.is_dir():
            checkpoint = checkpoint / "pytorch_model.bin"
        if not checkpoint.is_file():
            raise UserError(f"vad: no pyannote checkpoint at {checkpoint}; leave vad.model empty for whisperX's own")

        os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")  # pyannote reports usage over the network otherwise
        with _quiet():
            import torch
            from lightning.pytorch.utilities.migration import utils as migration
            from pyannote.audio import Model
            from whisperx.vads.pyannote import VoiceActivitySegmentation

            if device.startswith("cuda") and not torch.cuda.is_available():
                raise UserError(f"vad: device={device} but torch sees no CUDA device; set device=cpu")
            # Lightning announces here that it upgraded the checkpoint in memory, whatever the caller's logging says
            migration._log.setLevel("ERROR")
            segmentation: Any = Model.from_pretrained(checkpoint)
            self._pipeline = VoiceActivitySegmentation(segmentation=segmentation, step=step, batch_size=batch_size)
            # the pipeline answers with scores, but refuses to run before it has its hyper-parameters
            unused = {"onset": onset, "offset": offset, "min_duration_on": 0.0, "min_duration_off": 0.0}
            self._pipeline.instantiate(unused)
            self._pipeline.to(torch.device(device))
        self._segmentation, self._step = segmentation, step
        self._second: Any = None  # what scores overlap, built when it is asked for
        self._torch = torch
        self._device_type = torch.device(device).type
        self._half = half

    def scores(self, pcm: np.ndarray) -> Scores:
        """Return scores of frames of 991 samples every 270; a frame speaks from its middle, as in whisperX."""
        torch = self._torch
        if len(pcm) == 0:
            return Scores(np.zeros(0, np.float32), 0, 270)
        waveform = torch.from_numpy(_unit_scale(pcm))[None]
        with _quiet(), torch.autocast(self._device_type, dtype=torch.float16, enabled=self._half):
            found = self._pipeline({"waveform": waveform, "sample_rate": SAMPLE_RATE})
        frames = found.sliding_window
        return Scores(
            np.ascontiguousarray(found.data[:, 0], np.float32),
            first=round((frames.start + frames.duration / 2) * SAMPLE_RATE),
            hop=round(frames.step * SAMPLE_RATE),
        )

    def overlap(self, pcm: np.ndarray) -> Scores:
        """Return the probability per frame that two voices speak at once: the network scores three voices apart."""
        torch = self._torch
        if len(pcm) == 0:
            return Scores(np.zeros(0, np.float32), 0, 270)
        with _quiet():
            from pyannote.audio import Inference

            if self._second is None:
                self._second = Inference(
                    self._segmentation,
                    duration=self.WINDOW_SECONDS,
                    step=self._step,
                    pre_aggregation_hook=_second_voice,
                )
            waveform = torch.from_numpy(_unit_scale(pcm))[None]
            found = self._second({"waveform": waveform, "sample_rate": SAMPLE_RATE})
        frames = found.sliding_window
        return Scores(
            np.ascontiguousarray(found.data[:, 0], np.float32),
            first=round((frames.start + frames.duration / 2) * SAMPLE_RATE),
            hop=round(frames.step * SAMPLE_RATE),
        )


class SileroVad(_Engine):
    """A SileroVad is Silero VAD 6 (MIT) from the silero-vad wheel: a streaming LSTM over 32-ms frames, through
    onnxruntime.

    The package's own thresholds are 0.5 / 0.35; lower ones find more speech here and still no sound effects
    (docs/benchmarks/curation.md). Source: github.com/snakers4/silero-vad, `SileroVADSequence`.
    """

    FRAME = 512

    def __init__(
        self,
        *,
        onset: float = 0.3,
        offset: float = 0.2,
        min_speech_seconds: float = 0.25,
        min_silence_seconds: float = 0.1,
    ) -> None:
        super().__init__(onset, offset, min_speech_seconds, min_silence_seconds)
        weights = _package_folder("silero_vad") / "data" / "silero_vad_16k_sequence.onnx"
        if not weights.is_file():
            raise UserError("vad: this silero-vad holds no sequence model; pip install 'silero-vad>=6.2.3'")
        from silero_vad.sequence_vad import SileroVADSequence

        self._model = SileroVADSequence(str(weights))  # one thread, CPU

    def scores(self, pcm: np.ndarray) -> Scores:
        """Return scores of frames of 512 samples, end to end; a frame speaks for its own samples."""
        return Scores(self._model.audio_forward(_unit_scale(pcm)), first=0, hop=self.FRAME)


class FsmnVad(_Engine):
    """An FsmnVad is FunASR's FSMN-VAD: 10-ms frames, 1 - P(silence), averaged over 200 ms as FunASR's window detector
    does.

    `model` is a directory with `model.onnx`, a FunASR directory with `model.pt`, or a hub name such as `fsmn-vad`
    (FunASR downloads it). FunASR's own state machine holds a span open for 0.8 s of silence and adds 0.2 s before and
    0.1 s after; here the spans follow the scores, and joining and padding are the segmenter's, as with every engine.

    Source: github.com/modelscope/FunASR `funasr/models/fsmn_vad_streaming`; Zhang et al., arXiv:1803.05030.
    """

    def __init__(
        self,
        model: str | Path = "fsmn-vad",
        *,
        onset: float = 0.6,
        offset: float = 0.4,
        min_speech_seconds: float = 0.1,
        min_silence_seconds: float = 0.1,
        smooth_seconds: float = 0.2,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        super().__init__(onset, offset, min_speech_seconds, min_silence_seconds)
        self._smooth = max(1, round(smooth_seconds * SAMPLE_RATE / fsmn.HOP))
        self._network = fsmn.load_network(model, threads=threads, device=device)

    def scores(self, pcm: np.ndarray) -> Scores:
        """Return scores of frames of 400 samples every 160; a frame speaks for the hop in its middle. Under 400
        samples: no frame.
        """
        speech = 1 - fsmn.silence(self._network, pcm)
        return Scores(_moving_average(speech, self._smooth), first=(fsmn.FRAME - fsmn.HOP) // 2, hop=fsmn.HOP)


ENGINES: dict[str, type[_Engine]] = {"pyannote": PyannoteVad, "silero": SileroVad, "fsmn": FsmnVad}


def load_vad(engine: str, **settings: Any) -> VoiceActivity:
    """Load an engine by name with its settings; `UserError` when the name, a setting or the model is wrong."""
    if engine not in ENGINES:
        raise UserError(f"vad: no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    known = list(inspect.signature(ENGINES[engine]).parameters)
    for name in settings:
        if name not in known:
            raise UserError(f"vad: {engine} has no setting {name!r}; it has {', '.join(known)}")
    return ENGINES[engine](**settings)


def _second_voice(scores: np.ndarray) -> np.ndarray:
    """The score of the second loudest voice: [windows, frames, voices] to [windows, frames, 1]."""
    second: np.ndarray = np.sort(scores, axis=-1)[..., -2:-1]
    return second


def _unit_scale(pcm: np.ndarray) -> np.ndarray:
    return pcm.astype(np.float32) / 32768


def _moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over `width` frames, over fewer at the ends; the cumulative sum is in float64 to keep it exact."""
    total = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    low = np.clip(np.arange(len(values)) - width // 2, 0, len(values))
    high = np.clip(low + width, 0, len(values))
    return ((total[high] - total[low]) / np.maximum(high - low, 1)).astype(np.float32)


def _package_folder(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"vad: the package {package!r} is not installed; pip install {package.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of dependencies about their own insides (codecs we do not use, TF32) off the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
