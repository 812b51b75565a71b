"""The model card of an export: what it is, how large, how fast, how good, from what data, and where it ends.

    config.json, Speed measured here, Evaluation (where given) ──render──> README.md, for hubs with YAML in front

run_card.py writes the card of a checkpoint, which holds all sizes.

Speed is processor time of one core, so that a busy machine does not make a model look slow.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_training.data.features import Cmvn
from model_training.decoding.onnx_scorer import SPEAKER, STREAM, ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.scorer import ModelScorer
from model_training.decoding.search import Scorer, ctc_greedy
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.metrics import ErrorRate
from model_training.model.speech_model import SpeechModel
from model_training.text.tokens import SOT
from operators.filterbank import SAMPLE_RATE, filterbank
from operators.page.card import FILE, card, languages, licence, table

__all__ = ["FILE", "Speed", "errors", "front_matter", "labels", "measure", "render", "results"]

_SECONDS, _REPEATS, _TOKENS = 15, 3, 20

_SHERPA = (
    "sherpa-onnx, text and events by CTC. "
    "`sherpa_onnx.OfflineRecognizer.from_fire_red_asr_ctc(model='model.onnx', tokens='tokens.txt')`."
)
_USE = {
    "safetensors": "PyTorch. `from model_training.export.export import load; model, folder = load('.')`.",
    "onnx": "onnxruntime, without PyTorch. `python -m model_training recognize . talk.mp3`.",
    "onnx-int8": "onnxruntime, without PyTorch. `python -m model_training recognize . talk.mp3`.",
    "sherpa": _SHERPA,
    "sherpa-int8": _SHERPA,
}
_LIBRARY = {"safetensors": "pytorch", "onnx": "onnx", "sherpa": "sherpa-onnx"}
_SHERPA_GRAPH = """\
| file | inputs | outputs |
|---|---|---|
| model.onnx | features (B, F, 80) with cmvn.json applied, lengths (B) | log_probs (CTC), log_probs_lengths |

Its metadata names the kind of features (`model_type`) and their mean and scale, which sherpa-onnx applies by itself.
"""
_GRAPHS = """\
| file | inputs | outputs |
|---|---|---|
| encoder.onnx | features (B, F, 80) with cmvn.json applied, lengths (B) | encoded, encoded_lengths, log_probs (CTC) |
{stream}| keys.onnx | encoded | the decoder's keys and values for the encoder, once per utterance |
| decoder.onnx | tokens (B, L), encoded_lengths, those keys, past keys and values (B, H, earlier, W) | logits, present |
"""
_REVERSE_GRAPHS = """\
| reverse_keys.onnx, reverse_decoder.onnx | as keys.onnx and decoder.onnx | the same of the right-to-left decoder, \
which rescores text from its end |
"""
_SPEAKER_GRAPH = """\
| speaker.onnx | early, a further output of the encoder, encoded_lengths | logits of the vocabulary, to be compared \
between the labels of one attribute |
"""
_STREAM_GRAPH = """\
| encoder_stream.onnx | features of a chunk (B, 4 S + 3, 80), past of every block | encoded, log_probs, present |
"""


@dataclass(frozen=True, slots=True)
class Speed:
    """A Speed is processor time of one core."""

    rtf: float
    """Seconds per second of audio: features, encoder and CTC greedy."""
    token_ms: float
    """Of one step of the decoder for one hypothesis."""
    processor: str


def measure(folder: Path, pruned: SpeechModel | None) -> Speed:
    """Time an export on this machine: onnxruntime for ONNX, torch for safetensors, one thread, 15 s of noise.

    `pruned` is the model of a safetensors folder; others need none.
    """
    found = ExportFolder.open(folder)
    onnx = None if found.config["format"] == "safetensors" else OnnxModel(found, threads=1)
    noise = np.random.default_rng(0).normal(0.0, 1000.0, _SECONDS * SAMPLE_RATE).astype(np.int16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(1 + _REPEATS):
            began = time.process_time()
            scorer = _scorer(onnx, pruned, found.cmvn, noise)
            ctc_greedy(scorer.ctc(0))
            times.append(time.process_time() - began)
        return Speed(float(np.median(times[1:])) / _SECONDS, _token_ms(scorer), _processor())
    finally:
        torch.set_num_threads(threads)


def _scorer(onnx: OnnxModel | None, pruned: SpeechModel | None, cmvn: Cmvn, pcm: np.ndarray) -> Scorer:
    features_BF80 = cmvn.apply(filterbank(pcm))[np.newaxis]
    lengths_B = np.array([features_BF80.shape[1]])
    if onnx is not None:
        return OnnxScorer(onnx, features_BF80, lengths_B)
    assert pruned is not None
    return ModelScorer(pruned, torch.from_numpy(features_BF80), torch.from_numpy(lengths_B), pruned.sizes[0])


def _token_ms(scorer: Scorer) -> float:
    clip, row = np.zeros(1, np.int64), np.zeros(1, np.int64)
    ids_HL = np.full((1, 1), SOT, np.int64)
    scorer.next(ids_HL, clip, None)
    began = time.process_time()
    for _ in range(_TOKENS):
        ids_HL = np.pad(ids_HL, ((0, 0), (0, 1)), constant_values=SOT)
        scorer.next(ids_HL, clip, row)
    return (time.process_time() - began) / _TOKENS * 1000


def render(
    record: Mapping[str, Any],
    full: Mapping[str, int] | None,
    speed: Speed | None,
    evaluation: Evaluation | None,
    license: str | None = None,
) -> str:
    """Return the card as Markdown.

    Args:
        record: config.json.
        full: parameter counts of the largest size of the training; None: not known here.
        license: as its maker names it.
    """
    n_experts, format = record["group"], record["format"]
    moe = record["model"]["moe"]
    size = f"N = {n_experts}" if n_experts else "dense"
    kind = f"{size} routed experts, K = {moe['top_k']} for a frame, {moe['shared']} shared" if n_experts else size
    name = f"n{n_experts}-{format}" if n_experts else f"dense-{format}"
    parts = [
        f"# Speech perception model, {size}, {format}",
        f"Transcribes speech and says its language, age, gender, emotion and sound events. A Conformer with CTC and an "
        f"attention decoder; {kind}. {_USE[format]}",
        "## Size",
        _size(record, full),
        "## Speed",
        _speed(speed),
        "## Error rates",
        _errors(record, evaluation),
        "## Training",
        f"Step {record['step']}, weights {record['weights']}; tasks: {', '.join(record['tasks'])}. {LABELS}",
        "## Limits",
        _limits(record),
    ]
    if format != "safetensors":
        graphs = _GRAPHS.replace("{stream}", _STREAM_GRAPH if STREAM in record["files"] else "")
        graphs += _REVERSE_GRAPHS if record["model"].get("reverse_layers") else ""
        graphs += _SPEAKER_GRAPH if SPEAKER in record["files"] else ""
        parts += ["## Graphs", (_SHERPA_GRAPH if format.startswith("sherpa") else graphs).rstrip()]
    library = _LIBRARY[format.removesuffix("-int8")]
    found = results(evaluation, (n_experts,))
    return card(front_matter(library, record.get("learnt"), [n_experts], name, found, license), *parts)


LABELS = "The labels of crawled speech are transcripts on which two independent recognisers agree, not human ones."


def front_matter(
    library: str,
    known_labels: Mapping[str, list[str]] | None,
    sizes: Sequence[int],
    name: str,
    results: list[dict[str, Any]],
    license: str | None,
) -> dict[str, Any]:
    """Return what hubs read of a model's card. A licence is its maker's to name: without one there is no such key."""
    matter: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "automatic-speech-recognition",
        "language": languages((known_labels or {}).get("language", [])),
        **({} if license is None else licence([license])),
        "tags": ["touchasp", "speech-perception", "conformer", "ctc", *(["moe"] if any(sizes) else [])],
    }
    return matter | ({"model-index": [{"name": name, "results": results}]} if results else {})


def results(evaluation: Evaluation | None, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the error rates of these sizes by test set, in the form of a hub's model-index."""
    found = []
    for name in evaluation.sets if evaluation is not None else ():
        metrics = [
            {
                "type": "cer",
                "name": f"CER, {method}" + (f", N = {size}" if len(sizes) > 1 else ""),
                "value": round(rate.percent, 2),
            }
            for size in sizes
            for method in evaluation.methods  # type: ignore[union-attr]
            if (rate := _characters(evaluation, name, size, method)) is not None and rate.percent is not None  # type: ignore[arg-type]
        ]
        if metrics:
            task = {"type": "automatic-speech-recognition"}
            found.append({"task": task, "dataset": {"name": name, "type": name}, "metrics": metrics})
    return found


def _size(record: Mapping[str, Any], full: Mapping[str, int] | None) -> str:
    counts = record["parameters"]
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {size:,} bytes |" for name, size in record["files"].items()]
    lines += [
        f"| parameters | {counts['total']:,} |",
        f"| parameters that one frame uses | {counts['active']:,} |",
        *([] if full is None else [f"| parameters of the largest size of this training | {full['total']:,} |"]),
        f"| units of the vocabulary | {record['vocabulary']:,} |",
    ]
    return "\n".join(lines)


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return "Not measured."
    return (
        f"On one core of {speed.processor}: real-time factor {speed.rtf:.4f} (processor seconds per second of audio, "
        f"features to CTC greedy, {_SECONDS} s of audio) and {speed.token_ms:.2f} ms for each token of the decoder."
    )


def _errors(record: Mapping[str, Any], evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Not evaluated when this was written."
    note = (
        "Character error rate in percent with its 95 % interval, of the model in float32 before export, at every size."
    )
    if record["format"].endswith("-int8"):
        note += " This folder holds 8-bit weights: evaluate it on your own audio as well."
    if record["group"] not in evaluation.groups:
        note += f" N = {record['group']}, the size of this folder, was not evaluated."
    return f"{note}\n\n{errors(evaluation)}"


def errors(evaluation: Evaluation) -> str:
    """Return the table of character error rates: a line for each test set and method, a column for each size."""
    sizes = sorted(evaluation.groups)
    rows = [
        [name, method, *(_rate(evaluation, name, size, method) for size in sizes)]
        for name in evaluation.sets
        for method in evaluation.methods
    ]
    return table(["test set", "decoding", *(f"N = {size}" if size else "dense" for size in sizes)], rows)


def labels(evaluation: Evaluation) -> str | None:
    """Return the table of accuracies over labels (language, gender, ...) of the largest size; None where none is."""
    size, method = evaluation.main
    rows = []
    for name in evaluation.sets:
        scores = evaluation.scores(name, size, method)
        for kind, counts in sorted(scores.attributes.items() if scores is not None else ()):
            label, always = counts.constant
            if (right := counts.accuracy.percent) is not None and always.percent is not None:
                rows.append([name, kind, f"{right:.1f}", f"{always.percent:.1f} ({label})"])
    return table(["test set", "label", "right, %", "a constant answer, %"], rows, 2) if rows else None


def _rate(evaluation: Evaluation, name: str, n_experts: int, method: str) -> str:
    rate = _characters(evaluation, name, n_experts, method)
    if rate is None or rate.percent is None:
        return "–"
    interval = rate.interval
    return f"{rate.percent:.2f}" + ("" if interval is None else f" ({interval[0]:.2f}–{interval[1]:.2f})")


def _characters(evaluation: Evaluation, name: str, n_experts: int, method: str) -> ErrorRate | None:
    scores = evaluation.scores(name, n_experts, method)
    return None if scores is None else scores.characters


def _limits(record: Mapping[str, Any]) -> str:
    seconds = record["max_frames"] / 100
    return "\n".join(
        [
            f"- It heard clips of at most {seconds:g} s; longer recordings are cut where they are quiet.",
            "- It answers with the labels of its scheme (tokenizer.json) and no others; a language it was not "
            "trained on is transcribed as one that it was.",
            "- Age, gender and emotion are guesses from the voice: not fit for decisions about a person.",
            "- Characters that are not in the vocabulary cannot be written.",
        ]
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
