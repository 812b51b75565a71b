"""Recognition with an exported model: onnxruntime and numpy, no torch.

    files, arrays ──windows──> int16 pcm ──filterbank, CMVN──> features ──OnnxScorer──> search ──> joined per recording

    python -m model_training recognize FOLDER AUDIO...

Legend: B windows, F feature frames, 80 mel bins.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from model_training.data.audio import describe
from model_training.data.features import MIN_FRAMES, Cmvn
from model_training.decoding.onnx_scorer import CONFIG, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.search import METHODS, SURER, SearchSettings, check_speaker, decode_batch
from model_training.decoding.streaming import Heard, StreamingRecognizer, StreamSettings
from model_training.decoding.windows import blocks, windows
from model_training.help import SPEAKER
from model_training.text.perception import Grammar, Recognition
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import ATTRIBUTES, TRANSCRIBE
from operators.audio.decode import Problem
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE, SHIFT, WINDOW, filterbank

Audio = str | Path | np.ndarray
_BATCH_WINDOWS, _BATCH_FRAMES = 8, 6_000
"""Windows recognised together, and the padded frames that bound them: enough for the decoder's products to pay."""


@dataclass(frozen=True, slots=True)
class _Window:
    recording: int
    features_F80: np.ndarray


class Recognizer:
    """A Recognizer is an exported model, ready to recognise.

    Args:
        folder: what `python -m model_training export --format onnx` (or onnx-int8) wrote.
        threads: of onnxruntime; 0 lets it take all cores.
        device: auto (a card where onnxruntime has one), cpu, cuda or cuda:1.

    Raises:
        UserError: no such folder, not a whole ONNX export, or no card where one is asked for.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0, device: str = "cpu") -> None:
        self._folder = ExportFolder.open(folder)
        self._model = OnnxModel(self._folder, threads=threads, device=device)
        self.tokenizer: Tokenizer = self._folder.tokenizer
        self.config = self._folder.config
        for key, kind in (("max_frames", int), ("tasks", list)):
            if not isinstance(self.config[key], kind):
                raise UserError(f"{self._folder.path / CONFIG} is damaged ({key}): export it again")
        self.known_labels: dict[str, list[str]] | None = self.config.get("learnt")
        # int8 scales activations by what is in the batch: alone, a window's answer depends on nothing else.
        self._together = 1 if self.config["format"] == "onnx-int8" else _BATCH_WINDOWS

    @property
    def device(self) -> str:
        """Return where the model runs: cpu or cuda."""
        return self._model.device

    @property
    def has_head(self) -> bool:
        """Say whether the model has a speaker head."""
        return bool(self._model.head_attributes)

    def recognize(
        self,
        audio: Iterable[Audio],
        *,
        method: str = "attention_rescoring",
        beam: int = 10,
        ctc_weight: float = 0.5,
        task: str = TRANSCRIBE,
        given: Mapping[str, str] | None = None,
        speaker: str = SURER,
        on_problem: Callable[[Problem], None] | None = None,
    ) -> list[Recognition]:
        """Return what each recording says.

        Recordings longer than the model heard in training are cut where they are quiet.

        Args:
            audio: files (any container, rate and number of channels) or arrays of 16 kHz samples, int16 or float in
                -1 ... 1.
            method: ctc_greedy | ctc_prefix_beam (text and events only) | attention | attention_rescoring.
            beam: hypotheses kept; 1 is greedy.
            given: attributes that the caller knows, for example {"language": "yue"}.
            speaker: whose word counts for attributes where the model has a speaker head: surer, head or decoder.
            on_problem: called with every stretch of a file that could not be read; the rest of the file is recognised.

        Raises:
            UserError: audio that cannot be read, or a method, task, attribute or label that the model does not have.
        """
        search = SearchSettings(method=method, beam=beam, ctc_weight=ctc_weight, speaker=speaker)
        check_speaker(speaker, self.has_head)
        check_task(task, self.config["tasks"], [method])
        order, known = self.config["task_order"], self.known_labels
        grammar = Grammar(self.tokenizer, task=task, order=order, given=given, known_labels=known)
        parts: dict[int, list[tuple[Recognition, int]]] = defaultdict(list)
        recordings = 0

        def heard() -> Iterator[_Window]:
            nonlocal recordings
            for one in audio:
                for features_F80 in hear(one, self.config["max_frames"], self._folder.cmvn, on_problem):
                    yield _Window(recordings, features_F80)
                recordings += 1

        for batch in _batches(heard(), self._together):
            for window, recognition in zip(batch, self._run(batch, grammar, search), strict=True):
                parts[window.recording].append((recognition, len(window.features_F80)))
        return [join(parts[recording], self.tokenizer) for recording in range(recordings)]

    def _run(self, batch: Sequence[_Window], grammar: Grammar, search: SearchSettings) -> list[Recognition]:
        lengths_B = np.array([len(window.features_F80) for window in batch])
        features_BF80 = np.zeros((len(batch), lengths_B.max(), batch[0].features_F80.shape[1]), np.float32)
        for row, window in enumerate(batch):
            features_BF80[row, : lengths_B[row]] = window.features_F80
        return decode_batch(OnnxScorer(self._model, features_BF80, lengths_B), self.tokenizer, grammar, search)


def check_task(task: str, trained: Sequence[str], methods: Iterable[str]) -> None:
    """Raises UserError for a task that the model was not trained for, or that a method does not answer."""
    if task not in trained:
        raise UserError(f"the model was not trained for the task {task!r}: it has {', '.join(trained)}")
    for method in methods:
        if task in ATTRIBUTES and method.startswith("ctc_"):
            raise UserError(f"{method} gives text and events, no {task}: take the method attention")


def hear(
    audio: Audio, max_frames: int, cmvn: Cmvn, on_problem: Callable[[Problem], None] | None = None
) -> Iterator[np.ndarray]:
    """Yield the normalised features [F, 80] of a recording's windows.

    None is longer than the `max_frames` that the model heard in training.

    Raises:
        UserError: audio that cannot be read.
    """
    longest = max(SAMPLE_RATE, WINDOW + (max_frames - 1) * SHIFT)  # pauses need a second's room
    for pcm in windows(audio, longest, on_problem):
        features_F80 = filterbank(pcm)
        if len(features_F80) >= MIN_FRAMES:  # fewer are no sound: nothing is said in them
            yield cmvn.apply(features_F80)


def join(parts: Sequence[tuple[Recognition, int]], tokenizer: Tokenizer) -> Recognition:
    """Join the windows of one recording, each with its frames: text and events in order, attributes by most frames."""
    if len(parts) == 1:
        return parts[0][0]
    ids = tuple(token for part, _ in parts for token in part.ids)
    labels: dict[str, str | None] = {}
    for kind in ATTRIBUTES:
        frames: dict[str, int] = defaultdict(int)
        for part, length in parts:
            if (label := getattr(part, kind)) is not None:
                frames[label] += length
        labels[kind] = max(frames, key=lambda label: frames[label], default=None)
    return Recognition(
        text=tokenizer.decode(token for token in ids if token in tokenizer.text_ids),
        events=tuple(dict.fromkeys(event for part, _ in parts for event in part.events)),
        ids=ids,
        score=sum(part.score or 0.0 for part, _ in parts) if parts else None,
        **labels,
    )


def _batches(heard: Iterable[_Window], together: int) -> Iterator[list[_Window]]:
    """Yield windows as they come, as many together as fit."""
    batch: list[_Window] = []
    longest = 0
    for window in heard:
        longest = max(longest, len(window.features_F80))
        if batch and (len(batch) == together or longest * (len(batch) + 1) > _BATCH_FRAMES):
            yield batch
            batch, longest = [], len(window.features_F80)
        batch.append(window)
    if batch:
        yield batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m model_training recognize`."""
    parser.add_argument("folder", metavar="FOLDER", help="an exported model: export --format onnx or onnx-int8")
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs="+",
        help="audio or video files of any format and length; "
        "with --stream also -, standard input: raw samples, 16 kHz, mono, 16 bits, little-endian (s16le)",
    )
    parser.add_argument("--method", default="attention_rescoring", help=f"{' | '.join(METHODS)} (default: %(default)s)")
    parser.add_argument("--beam", type=int, default=10, help="hypotheses kept; 1 is greedy (default: %(default)s)")
    parser.add_argument("--task", default=TRANSCRIBE, help="transcribe, or one thing only: language, age, ..., event")
    parser.add_argument(
        "--given", action="append", default=[], metavar="KIND=LABEL", help="what you know, for example language=yue"
    )
    parser.add_argument("--speaker", default=SURER, metavar="WHO", help=SPEAKER)
    parser.add_argument("--threads", type=int, default=0, help="processor cores to use (default: all)")
    parser.add_argument(
        "--device", default="auto", help="auto | cpu | cuda (default: auto, a card where onnxruntime has one)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per recording; per utterance of a stream")
    parser.add_argument("--stream", action="store_true", help="answer while it is spoken; a line per utterance")
    parser.add_argument(
        "--chunk",
        type=int,
        default=16,
        metavar="N",
        help="of a stream: frames of 40 ms that are heard together (default: %(default)s)",
    )
    parser.add_argument("--left", type=int, metavar="N", help="of a stream: chunks to look back to (default: all)")
    parser.add_argument(
        "--pause",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="of a stream: without a word, ends "
        "an utterance; 0: only the end does, or the model's longest window (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="of a stream: say what a chunk took to compute")


def main(options: argparse.Namespace) -> int:
    """Print a line per recording and return the exit code.

    A recording that cannot be read is named on stderr, the others go on; the code is then 2. A stretch that could not
    be read is named there, too.
    """
    given = {}
    for item in options.given:
        kind, equals, label = item.partition("=")
        if not equals:
            raise UserError(f"--given {item}: write KIND=LABEL, for example --given language=yue")
        given[kind] = label
    if options.stream:
        return _stream(options, given)
    recognizer = Recognizer(options.folder, threads=options.threads, device=options.device)
    _say_device(recognizer.device)
    # A mistake here is no recording's fault.
    SearchSettings(method=options.method, beam=options.beam, speaker=options.speaker)
    check_speaker(options.speaker, recognizer.has_head)
    check_task(options.task, recognizer.config["tasks"], [options.method])
    Grammar(recognizer.tokenizer, task=options.task, given=given, known_labels=recognizer.known_labels)
    failed = False
    for path in options.audio:
        holes: list[Problem] = []
        try:
            (found,) = recognizer.recognize(
                [path],
                method=options.method,
                beam=options.beam,
                task=options.task,
                given=given,
                speaker=options.speaker,
                on_problem=holes.append,
            )
        except UserError as error:
            print(f"touchasp: {error}", file=sys.stderr)
            failed = True
            continue
        for hole in holes:
            print(f"touchasp: {path}: {describe(hole)}", file=sys.stderr)
        print(_json_line(path, found) if options.json else _line(path, found), flush=True)
    return 2 if failed else 0


def _stream(options: argparse.Namespace, given: Mapping[str, str]) -> int:
    """Print a line per utterance, on a terminal also what it says so far, and return the exit code."""
    if options.task != TRANSCRIBE:
        raise UserError(f"--stream writes what is said: leave --task {options.task} out, or leave --stream out")
    settings = StreamSettings(chunk=options.chunk, left=options.left, pause_seconds=options.pause)
    search = SearchSettings(method=options.method, beam=options.beam, speaker=options.speaker)
    recognizer = StreamingRecognizer(options.folder, threads=options.threads, device=options.device)
    _say_device(recognizer.device)
    check_speaker(options.speaker, recognizer.has_head)
    failed = False
    for path in options.audio:
        holes: list[Problem] = []
        pcm = _standard_input() if path == "-" else blocks(path, 1, holes.append)
        try:
            for heard in recognizer.stream(pcm, settings, search, given=given):
                _show(path, heard, options.json)
        except UserError as error:
            print(f"touchasp: {error}", file=sys.stderr)
            failed = True
        for hole in holes:
            print(f"touchasp: {path}: {describe(hole)}", file=sys.stderr)
    if options.verbose and (took := recognizer.chunk_seconds):
        mean, late = 1000 * np.mean(took), 1000 * np.percentile(took, 95)
        print(
            f"{len(took)} chunks of {0.04 * options.chunk:.2f} s: {mean:.1f} ms to compute one, "
            f"{late:.1f} ms at the 95th percentile",
            file=sys.stderr,
        )
    return 2 if failed else 0


def _say_device(device: str) -> None:
    """Say that a card does the work; the CPU, which is there anyway, needs no line."""
    if device != "cpu":
        print(f"touchasp: recognising on {device}", file=sys.stderr)


def _standard_input() -> Iterator[np.ndarray]:
    """Yield the raw samples of standard input as they come. Ctrl-C ends them, as it ends whoever records."""
    if sys.stdin.isatty():
        raise UserError("- is standard input: pipe samples into it, for example arecord -t raw -f S16_LE -r 16000 |")
    samples = cast(io.BufferedReader, sys.stdin.buffer)  # what is there already, without waiting for a full block
    rest, first = b"", True
    try:
        while data := samples.read1(65_536):
            if first and data[:4] in (b"RIFF", b"fLaC", b"OggS"):
                raise UserError("standard input is an audio file, not raw samples: give it as a file instead of -")
            data, first = rest + data, False
            even = len(data) // 2 * 2
            rest = data[even:]
            yield np.frombuffer(data[:even], "<i2").astype(np.int16, copy=False)
    except KeyboardInterrupt:
        return


def _show(path: str, heard: Heard, as_json: bool) -> None:
    """Print an utterance that is over as a line; one that is not as the line's beginning, on a terminal only."""
    clear = "\r\x1b[K" if sys.stdout.isatty() else ""
    if heard.final and as_json:
        seconds = {"start": round(heard.start_seconds, 2), "end": round(heard.end_seconds, 2)}
        print(clear + _json_line(path, heard.recognition, **seconds), flush=True)
    elif heard.final:
        print(clear + _line(path, heard.recognition), flush=True)
    elif clear:
        print(clear + _tail(heard.recognition.text, shutil.get_terminal_size().columns - 1), end="", flush=True)


def _tail(text: str, columns: int) -> str:
    """Return the end of a text that fits into so many columns, of which some characters take two."""
    for place in range(len(text) - 1, -1, -1):
        columns -= 2 if unicodedata.east_asian_width(text[place]) in "WF" else 1
        if columns < 0:
            return text[place + 1 :]
    return text


def _line(path: str, found: Recognition) -> str:
    labels = [label for kind in ATTRIBUTES if (label := getattr(found, kind)) is not None]
    notes = [*labels, *(f"<{event}>" for event in found.events)]
    return f"{path}\t{found.text}" + (f"\t[{' '.join(notes)}]" if notes else "")


def _json_line(path: str, found: Recognition, **more: float) -> str:
    record = asdict(found)
    del record["ids"]
    return json.dumps({"audio": path, **more} | record, ensure_ascii=False)
