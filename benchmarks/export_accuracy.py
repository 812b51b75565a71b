"""Does an export recognise as well as the model it came from?

    checkpoint ──export──> float32 and int8 at every size ──┬──> the same clips through torch, ONNX and ONNX int8
    hand-off ──labelled clips───────────────────────────────┘    ──> error rates side by side, and clips that differ

    python -m benchmarks.export_accuracy models/first --data handoff     a model of yours, on the dev split
    python -m benchmarks.export_accuracy                                 a tiny one, trained here: two minutes

Wanted: int8 within 0.3 percentage points of the character error rate of float32. The tiny model learns words spelt in
tones: so easy that two minutes leave a model that is right about most and unsure about some, as a real one is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.targets import show_targets
from model_training import config
from model_training.data.handoff import Handoff
from model_training.decoding.onnx_scorer import ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.search import Scorer
from model_training.evaluation.evaluate import EvaluationBatch, evaluate, evaluate_scorers
from model_training.evaluation.evaluation import Evaluation
from model_training.evaluation.sets import labelled_sets, load_model
from model_training.export.export import export

WANTED = 0.3
"""Percentage points of the character error rate that int8 may cost."""
TINY = [
    "model.d_model=48",
    "model.heads=4",
    "model.d_ff=96",
    "model.encoder_layers=2",
    "model.decoder_layers=1",
    "model.kernel=7",
    "data.max_frames=2000",
    "data.max_clip_frames=400",
    "data.max_clips=16",
    "data.micro_batches=1",
    "data.loaders=0",
    "data.augment.reverb_probability=0",
    "data.augment.noise_probability=0",
    "data.augment.speed_factors=[]",
    "data.augment.frequency_masks=0",
    "data.augment.time_masks=0",
    "optimizer.warmup_steps=60",
    "optimizer.learning_rate=0.003",
    "train.precision=fp32",
    "train.threads=1",
    "train.tensorboard=false",
    "train.eval_clips=8",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", metavar="CKPT")
    parser.add_argument("--data", metavar="HANDOFF")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--methods", default="ctc_greedy,attention_rescoring")
    parser.add_argument("--steps", type=int, default=1000, help="of the tiny model")
    parser.add_argument("--beam", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, data = options.checkpoint, options.data
        if not checkpoint:
            checkpoint, data = train_tiny(Path(scratch), options.steps)
        elif not data:
            parser.error("give --data, the hand-off with the clips to recognise")
        compare(checkpoint, data, options.split, options.methods.split(","), options.beam, Path(scratch))


def train_tiny(folder: Path, steps: int) -> tuple[str, str]:
    from model_training.train import train
    from tests.support.corpus import make_handoff

    handoff = make_handoff(folder / "tones", train=400, dev=300, longest=8)
    limits = [f"train.{key}_steps={steps}" for key in ("max", "eval", "checkpoint")]
    done = train(str(handoff), folder / "run", config.load(None, [*TINY, *limits]))
    return str(done.folder), str(handoff)


def compare(checkpoint: str, data: str, split: str, methods: list[str], beam: int, scratch: Path) -> None:
    loaded = load_model(checkpoint)
    sets = labelled_sets(Handoff.open(data), split, loaded)
    order = loaded.settings.data.task_order or None
    heard: dict[str, dict[tuple[int, str, str], str]] = {name: {} for name in ("torch", "onnx", "onnx-int8")}

    def note(kind: str) -> Callable[..., None]:
        def on_recognition(_: str, group: int, method: str, row: object, found: object) -> None:
            heard[kind][group, method, row.clip_id] = found.text  # type: ignore[attr-defined]

        return on_recognition

    results = {
        "torch": evaluate(
            loaded.model,
            loaded.tokenizer,
            sets,
            methods=methods,
            beam=beam,
            order=order,
            known_labels=loaded.known_labels,
            on_recognition=note("torch"),  # type: ignore[arg-type]
        )
    }
    sizes = {}
    for kind in ("onnx", "onnx-int8"):
        exported = export(checkpoint, "all", kind, scratch / kind, measure=False)
        sizes[kind] = {one.n_experts: one.bytes for one in exported}
        models = {one.n_experts: OnnxModel(ExportFolder.open(one.folder), threads=1) for one in exported}

        def score(batch: EvaluationBatch, group: int, models: dict[int, OnnxModel] = models) -> Scorer:
            return OnnxScorer(models[group], batch.features_BT80.numpy(), batch.feature_lengths_B.numpy())

        results[kind] = evaluate_scorers(
            score,
            loaded.tokenizer,
            sets,
            groups=loaded.model.sizes,
            methods=methods,
            beam=beam,
            order=order,  # type: ignore[arg-type]
            known_labels=loaded.known_labels,
            on_recognition=note(kind),
        )
    show(results, heard, sizes)


def show(
    results: dict[str, Evaluation],
    heard: dict[str, dict[tuple[int, str, str], str]],
    sizes: dict[str, dict[int, int]],
) -> None:
    """CER in percent of all sets together; differences in percentage points."""
    exact = results["torch"]
    costs = []
    print(
        "| size | decoding | clips | CER torch | ONNX | int8 | int8 costs | other texts: ONNX, int8 | MB ONNX, int8 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for group in exact.groups:
        for method in exact.methods:
            rates = {kind: found.pooled(group, method).characters.percent for kind, found in results.items()}
            assert None not in rates.values(), "clips without a reference have no error rate"
            difference = (rates["onnx-int8"] or 0.0) - (rates["torch"] or 0.0)
            costs.append(
                (f"{f'N = {group}' if group else 'dense'} int8, {method}, CER points", WANTED, abs(difference))
            )
            verdict = "within" if abs(difference) <= WANTED else "beyond"
            clips = [key for key in heard["torch"] if key[:2] == (group, method)]
            differ = [sum(heard[kind][key] != heard["torch"][key] for key in clips) for kind in ("onnx", "onnx-int8")]
            print(
                f"| {f'N = {group}' if group else 'dense'} | {method} | {len(clips)} | {rates['torch']:.2f} "
                f"| {rates['onnx']:.2f} | {rates['onnx-int8']:.2f} | {difference:+.2f}, {verdict} {WANTED} "
                f"| {differ[0]}, {differ[1]} | {sizes['onnx'][group] / 1e6:.2f}, "
                f"{sizes['onnx-int8'][group] / 1e6:.2f} |"
            )
    show_targets(costs)


if __name__ == "__main__":
    main()
