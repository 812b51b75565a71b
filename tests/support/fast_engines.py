"""Engines for tests that need volume, not ears: pure functions of the samples, so any worker gives the same answer.

They stand in for recognisers where the subject is the pipeline around them (kills, resumption, accounting). Tests of
what is heard use the real engines.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from operators.annotate.annotator import ClipSpeaker, Heard, Opinion
from operators.asr.windows import fill, pack
from operators.clip import SAMPLE_RATE, Hypothesis, Span, Unit, Word, pcm_bytes
from stages.base import Resources

TEXT = "the quick brown fox jumps over a lazy dog while seven wizards quietly boil their soup near old town"
WORDS = TEXT.split()


class EnergyVad:
    """Speech is where the mean level over 50 ms exceeds -40 dBFS."""

    def speech(self, pcm: np.ndarray) -> list[Span]:
        hop = SAMPLE_RATE // 20
        frames = len(pcm) // hop
        levels = (
            np.abs(pcm[: frames * hop].reshape(frames, hop).astype(np.int32)).mean(axis=1) if frames else np.zeros(0)
        )
        loud = np.concatenate(([0], (levels > 330).astype(np.int8), [0]))
        edges = np.flatnonzero(np.diff(loud))
        return [Span(int(a) * hop, int(b) * hop) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _text(pcm: np.ndarray) -> list[str]:
    digest = hashlib.sha256(pcm_bytes(pcm)).digest()
    count = max(3, int(len(pcm) / SAMPLE_RATE * 2))
    return [WORDS[digest[index % len(digest)] % len(WORDS)] for index in range(count)]


class HashRecogniser:
    """Words that are a function of the samples, about two a second. Takes FAST_ENGINES_DELAY seconds a clip."""

    name = "hash"

    def __init__(self, model: str = "hash") -> None:
        self.delay = float(os.environ.get("FAST_ENGINES_DELAY", "0"))

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        time.sleep(self.delay * len(clips))
        return [
            Hypothesis(
                engine=self.name,
                text=" ".join(self.words(pcm)),
                language=language or "en",
                language_prob=0.9,
                avg_logprob=-0.2,
            )
            for pcm, language in zip(clips, languages, strict=True)
        ]

    def words(self, pcm: np.ndarray) -> list[str]:
        return _text(pcm)

    def close(self) -> None:
        pass


class SharingRecogniser(HashRecogniser):
    """The same words, but what it says of them depends on all clips that share a window, as with WhisperX: it packs
    them as WhisperX does, and its certainty is a function of the window's whole audio.
    """

    def transcribe(
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        recordings: Sequence[str] = (),
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Hypothesis]:
        alone = super().transcribe(clips, languages)
        windows = pack([len(clip) for clip in clips], list(zip(recordings, languages, strict=True)), 12_800, 480_000)
        assert any(window.shared for window in windows) or len(clips) < 3, "clips must share windows for this to tell"
        answers: dict[int, Hypothesis] = {}
        for number, window in enumerate(windows):
            digest = hashlib.sha256(fill(window, clips).tobytes()).digest()
            for clip in window.clips:
                retaken = digest[clip % len(digest)] % 5 == 0
                certainty = -round(digest[0] / 512, 4)
                answers[clip] = replace(alone[clip], avg_logprob=certainty, window=number, retaken=retaken)
                if progress is not None:
                    progress(len(answers), sum(len(clips[done]) for done in answers) / SAMPLE_RATE)
        return [answers[index] for index in range(len(clips))]


SHARING = "asr.engine=tests.support.fast_engines:SharingRecogniser"


class HashCopilot(HashRecogniser):
    """The same words, but for every third clip, which it mishears."""

    name = "hash-copilot"

    def words(self, pcm: np.ndarray) -> list[str]:
        words = _text(pcm)
        return words[::-1] if hashlib.sha256(pcm_bytes(pcm)).digest()[0] % 3 == 0 else words


class HashAnnotator:
    """Gender and emotion that are functions of the samples. "b" mishears every fourth clip and abstains on some."""

    def __init__(self, model: str = "a") -> None:
        self.name = f"hash-annotator/{model}"

    def annotate(self, clips: Sequence[Heard]) -> list[Mapping[str, Opinion]]:
        return [self._opinions(hashlib.sha256(pcm_bytes(clip.pcm)).digest()) for clip in clips]

    def _opinions(self, digest: bytes) -> dict[str, Opinion]:
        gender, emotion = ("female", "male")[digest[0] % 2], ("anger", "neutral", "happiness")[digest[1] % 3]
        if self.name.endswith("b") and digest[2] % 4 == 0:
            gender = "female"
        opinions = {"gender": Opinion((gender,), digest[3] / 256), "emotion": Opinion((emotion,))}
        opinions["events"] = Opinion(("dog",) if digest[4] % 3 == 0 else ())
        if self.name.endswith("b") and digest[5] % 5 == 0:
            del opinions["emotion"]
        return opinions

    def close(self) -> None:
        pass


class HashDiarisation:
    """Two voices to a recording, told apart by the first sample that is no zero."""

    name = "hash-diarisation"

    def speakers(self, clips: Sequence[Heard]) -> list[ClipSpeaker]:
        numbers: dict[bool, int] = {}
        voices = [bool(clip.pcm[np.flatnonzero(clip.pcm)[0]] > 0) for clip in clips]
        return [ClipSpeaker(number=numbers.setdefault(voice, len(numbers)), overlap=0.0) for voice in voices]

    def close(self) -> None:
        pass


class HashAligner:
    """Every word of the label as long as the next; "late" by 50 ms, and by a second in the first word."""

    def __init__(self, model: str = "even") -> None:
        self.name = f"hash-aligner/{model}"

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        return [self._words(clip) for clip in clips]

    def _words(self, clip: Heard) -> tuple[Word, ...]:
        words = clip.text.split()
        step, late = len(clip.pcm) // len(words), 800 if self.name.endswith("late") else 0
        return tuple(
            Word(text=word, start=at * step + (late if at else 20 * late), end=(at + 1) * step + late)
            for at, word in enumerate(words)
        )

    def close(self) -> None:
        pass


def annotated(*more: str) -> list[str]:
    """`key=value` settings that annotate a run with these engines."""
    both = ", ".join(f"{{engine: 'tests.support.fast_engines:HashAnnotator', model: {model}}}" for model in "ab")
    return [
        f"annotate.annotators=[{both}]",
        "annotate.kinds=[gender, emotion, events]",
        "execution.annotate.cpus=0.1",
        *more,
    ]


def settings(output: str, source: str, *more: str) -> list[str]:
    """`key=value` settings of a run with these engines."""
    return [
        f"output={output}",
        f"sources=[{{path: '{source}'}}]",
        "plan.unit_minutes=1",
        "plan.edge_radius_seconds=2",
        "vad.engine=tests.support.fast_engines:EnergyVad",
        "asr.engine=tests.support.fast_engines:HashRecogniser",
        "asr.model=hash",
        "copilot.engine=tests.support.fast_engines:HashCopilot",
        "copilot.models={en: hash}",
        *(f"execution.{stage}.cpus=0.1" for stage in ("segment", "transcribe", "copilot", "rover", "write_shard")),
        *more,
    ]


def write_crawl(folder: object, clips: int, seed: int = 0, domains: Sequence[str] = ("audiobook", "live")) -> int:
    """Make a crawl of WAV files with about `clips` bursts of noise, 2.2-4.5 s each, between pauses. Answers the bursts
    made.
    """
    from pathlib import Path

    import soundfile

    rng = np.random.default_rng(seed)
    made = recording = 0
    while made < clips:
        parts: list[np.ndarray] = [np.zeros(SAMPLE_RATE // 2, np.int16)]
        for _ in range(int(rng.integers(4, 40))):
            length = int(rng.integers(int(2.2 * SAMPLE_RATE), int(4.5 * SAMPLE_RATE)))
            # Low-passed noise with a small alphabet of values: quick to make and to compress.
            burst = np.repeat(rng.integers(-8, 8, length // 16 + 1, dtype=np.int16) * 700, 16)[:length]
            pause = np.zeros(int(rng.integers(int(1.2 * SAMPLE_RATE), 2 * SAMPLE_RATE)), np.int16)
            parts += [burst, pause]
            made += 1
        path = Path(str(folder)) / domains[recording % len(domains)] / f"rec-{recording:04d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.concatenate(parts), SAMPLE_RATE, subtype="PCM_16")
        recording += 1
    return made


@dataclass(kw_only=True)
class Named:
    """The Named stage does nothing but have a name."""

    name: str
    resources: Resources = field(default_factory=Resources)

    def open(self) -> None:
        pass

    def process(self, unit: Unit) -> Unit:
        return unit

    def close(self) -> None:
        pass
