"""When each word is spoken, by CTC over a model of ours: an engine of Annotate, and the command `align`.

    pcm ──windows──> features ──encoder──> log_probs_SV ─┐
    text ──words_of──> words ──tokenizer──> ids ─────────┴─best_path──> tokens' frames ──spread──> Word ...

    python -m model_training align MODEL AUDIO --text TEXT

`ExportedAligner` runs an ONNX export in onnxruntime, without torch; `CheckpointAligner` a checkpoint. A language is
known when its letters are: a word with a character that the tokenizer lacks is left out.

Legend: S encoder frames, V vocabulary, F feature frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from model_training.data.audio import describe
from model_training.data.features import MIN_FRAMES, Cmvn
from model_training.decoding.onnx_scorer import CONFIG, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.windows import windows
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import UNK
from operators.align.captions import ctm, vtt
from operators.align.ctc import best_path, token_frames
from operators.annotate.annotator import Heard
from operators.annotate.words import spread, words_of
from operators.audio.decode import Problem
from operators.clip import SAMPLE_RATE, Word
from operators.errors import UserError
from operators.filterbank import SHIFT, WINDOW, filterbank

LogProbs = Callable[[np.ndarray], np.ndarray]
"""From features [F, 80] with CMVN applied to CTC's log-probabilities [S, V]."""

MOST_SECONDS = 1800
"""The path's memory grows with length times words; half an hour takes about 100 MB."""


class CtcAligner:
    """A CtcAligner places the words of a text on the best path through CTC's log-probabilities.

    Args:
        name: goes into messages; names the model, never a path of the machine.
        log_probs: the model.
        max_frames: feature frames that the model heard at once in training; longer audio is cut where it is quiet.
    """

    def __init__(self, name: str, log_probs: LogProbs, tokenizer: Tokenizer, cmvn: Cmvn, max_frames: int) -> None:
        self.name = name
        self._log_probs, self._tokenizer, self._cmvn = log_probs, tokenizer, cmvn
        self._longest = max(SAMPLE_RATE, WINDOW + (max_frames - 1) * SHIFT)

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each clip with their times; None where the model can spell none, or no path fits."""
        return [self.place(clip.pcm, clip.text, clip.language) for clip in clips]

    def place(self, pcm: np.ndarray, text: str, language: str | None = None) -> tuple[Word, ...] | None:
        """Return the words of `text`, in order, where they are spoken in `pcm` (int16 [samples], 16 kHz).

        Words with characters that the tokenizer lacks are left out. None where none is left, or they do not fit.
        """
        spelt = [(word, self._tokenizer.encode(word, language)) for word in words_of(text)]
        spelt = [(word, ids) for word, ids in spelt if ids and UNK not in ids]
        heard = [part for part in self._heard(pcm) if len(part[0])]
        if not spelt or not heard:
            return None
        path_S = best_path(np.concatenate([part for part, _ in heard]), [token for _, ids in spelt for token in ids])
        if path_S is None:
            return None
        # The samples that each encoder frame lies around.
        begins_S = np.concatenate([starts for _, starts in heard])
        frames = token_frames(path_S)
        cores, first = [], 0
        for _, ids in spelt:
            start, last = frames[first][0], frames[first + len(ids) - 1][1] - 1
            cores.append((int(begins_S[start]), min(int(begins_S[last]) + _STEP // 2, len(pcm))))
            first += len(ids)
        return tuple(
            Word(text=word, start=start, end=end)
            for (word, _), (start, end) in zip(spelt, spread(cores, pcm), strict=True)
        )

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._log_probs

    def _heard(self, pcm: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the log-probabilities of each window, and the sample around which each of their frames lies."""
        start = 0
        for window in windows(pcm, self._longest):
            features_F80 = filterbank(window)
            if len(features_F80) >= MIN_FRAMES:
                log_probs_SV = self._log_probs(self._cmvn.apply(features_F80))
                yield log_probs_SV, start + _FIRST + _STEP * np.arange(len(log_probs_SV))
            start += len(window)


_STEP = 4 * SHIFT
"""samples from one encoder frame to the next: two convolutions of stride 2."""
_FIRST = 3 * SHIFT + WINDOW // 2
"""the sample in the middle of what the first encoder frame sees: feature frames 0 to 6."""


class ExportedAligner(CtcAligner):
    """An ExportedAligner is a folder that `export --format onnx` or `onnx-int8` wrote, as an aligner.

    Raises:
        UserError: no such folder, or not a whole ONNX export.
    """

    def __init__(self, model: str, *, threads: int = 1, name: str | None = None) -> None:
        path = Path(model).expanduser()
        folder = ExportFolder.open(path)
        onnx = OnnxModel(folder, threads=threads)
        if not isinstance(folder.config["max_frames"], int):
            raise UserError(f"{path / CONFIG} is damaged (max_frames): export it again")

        def log_probs(features_F80: np.ndarray) -> np.ndarray:
            return OnnxScorer(onnx, features_F80[np.newaxis], np.array([len(features_F80)])).ctc(0)

        name = name or f"exported/{'-'.join(path.resolve().parts[-2:])}"
        super().__init__(name, log_probs, folder.tokenizer, folder.cmvn, folder.config["max_frames"])


class CheckpointAligner(CtcAligner):
    """A CheckpointAligner is a checkpoint's largest size, or the one of `group` experts, as an aligner. It needs torch.

    Raises:
        UserError: no checkpoint there, or no size of so many experts.
    """

    def __init__(self, model: str, *, group: int | None = None, device: str = "cpu", name: str | None = None) -> None:
        import torch

        from model_training.decoding.scorer import ModelScorer
        from model_training.evaluation.sets import load_model

        loaded = load_model(model, device=device)
        n_experts = loaded.model.sizes[-1] if group is None else group
        loaded.model.tier(n_experts)

        def log_probs(features_F80: np.ndarray) -> np.ndarray:
            batch = torch.from_numpy(features_F80).unsqueeze(0), torch.tensor([len(features_F80)])
            return ModelScorer(loaded.model, *batch, n_experts).ctc(0)

        path = Path(model).resolve()
        frames = loaded.settings.data.max_clip_frames
        super().__init__(name or f"checkpoint/{path.name}", log_probs, loaded.tokenizer, loaded.cmvn, frames)


def aligner(model: str) -> CtcAligner:
    """Return the aligner of an exported folder or of a checkpoint's. Raises UserError where it is neither."""
    return ExportedAligner(model) if (Path(model) / CONFIG).exists() else CheckpointAligner(model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m model_training align`."""
    parser.add_argument("model", metavar="MODEL", help="an exported model (onnx, onnx-int8), or a checkpoint or run")
    parser.add_argument("audio", metavar="AUDIO", help="an audio or video file of up to half an hour")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", metavar="TEXT", help="what is said in it")
    text.add_argument("--text-file", metavar="FILE", help="the same, UTF-8")
    parser.add_argument("--language", metavar="CODE", help="of the text, for example en or zh (default: not known)")
    parser.add_argument(
        "--format", choices=("json", "vtt", "ctm"), default="json", help="of what is printed (default %(default)s)"
    )


def main(options: argparse.Namespace) -> int:
    """Print when each word is spoken, and return the exit code.

    Raises:
        UserError: audio, text or model that cannot be read, or a text that does not fit the audio.
    """
    text = options.text if options.text is not None else _read(options.text_file)
    engine = aligner(options.model)
    holes: list[Problem] = []
    parts = list(windows(options.audio, MOST_SECONDS * SAMPLE_RATE, holes.append))
    for hole in holes:
        print(f"touchasp: {options.audio}: {describe(hole)}", file=sys.stderr)
    if len(parts) > 1:
        raise UserError(f"{options.audio} lasts more than {MOST_SECONDS // 60} minutes: cut it, and its text, first")
    words = engine.place(parts[0], text, options.language)
    if words is None:
        raise UserError(
            f"the text does not fit {options.audio}: it has words that are not said there, or none that the model knows"
        )
    if missing := len(words_of(text)) - len(words):
        print(f"touchasp: {missing} words have letters that the model does not know: left out", file=sys.stderr)
    if options.format == "vtt":
        print(vtt(words), end="")
    elif options.format == "ctm":
        print(ctm(words, Path(options.audio).stem), end="")
    else:
        for word in words:
            times = {"start": round(word.start / SAMPLE_RATE, 3), "end": round(word.end / SAMPLE_RATE, 3)}
            print(json.dumps({"word": word.text, **times}, ensure_ascii=False))
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from None
