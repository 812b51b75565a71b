"""A small classifier of one attribute, from a labelled set to an ONNX file that `annotate` runs: a minute on a laptop.

    MANIFEST ──rows with a label──> filterbank ──mean, deviation over time──> statistics ──logistic regression──> ONNX

    python -m examples.attribute_classifier.make speech.jsonl --kind gender --out gender.onnx
    python -m examples.attribute_classifier.make sounds.jsonl --kind events --out events.onnx --statistics edges

    annotate: {annotators: [{engine: onnx, model: gender.onnx}, ...]}

A second opinion, not a first: it knows a voice by its mean spectrum and no more. Two that are made of different
statistics, or of different speakers, err differently, which is what agreement lives on.

Legend: N clips, F frames, 80 mel bins, D statistics, C labels.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from operators.audio.decode import decode
from operators.clip import KINDS, SAMPLE_RATE
from operators.errors import UserError
from operators.filterbank import filterbank

STATISTICS = ("mean", "edges")
"""mean: mean and deviation of each bin. edges: the deviation of how each bin changes from frame to frame."""


def rows(manifest: Path, kind: str) -> Iterator[tuple[np.ndarray, str]]:
    """Yield (pcm, label) of the rows that have a label of the kind; of events, one label or none."""
    for line in manifest.read_text("utf-8").splitlines():
        row = json.loads(line)
        label = row.get(kind)
        if kind == "events" and isinstance(label, list):
            label = "none" if not label else label[0] if len(label) == 1 else None
        if not isinstance(label, str) or not label:
            continue
        start = round(float(row.get("start") or 0) * SAMPLE_RATE)
        end = round(float(row["end"]) * SAMPLE_RATE) if row.get("end") else None
        yield decode(str(manifest.parent / row["uri"]), (start, end)).pcm, label.lower()


def statistics(pcm: np.ndarray, which: str) -> np.ndarray:
    """Return [D] of a clip: what the exported graph computes of its features."""
    x_FD = filterbank(pcm).astype(np.float64)
    if which == "edges":
        return np.sqrt((x_FD[1:] - x_FD[:-1]).var(axis=0) + 1e-6)
    return np.concatenate([x_FD.mean(axis=0), np.sqrt(x_FD.var(axis=0) + 1e-6)])


def fit(x_ND: np.ndarray, labels: Sequence[str], names: Sequence[str], penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [D, C] and biases [C] of a logistic regression, rare labels weighted up to count alike."""
    from scipy.optimize import minimize

    y_N = np.array([names.index(label) for label in labels])
    counts = np.bincount(y_N, minlength=len(names))
    weight_N = (len(y_N) / len(names) / counts)[y_N]
    mean_D, spread_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-3
    z_ND = (x_ND - mean_D) / spread_D
    shape = (x_ND.shape[1] + 1, len(names))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        logits_NC = z_ND @ w[:-1] + w[-1]
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        odds_NC = np.exp(logits_NC)
        odds_NC /= odds_NC.sum(axis=1, keepdims=True)
        value = -(weight_N * np.log(odds_NC[np.arange(len(y_N)), y_N] + 1e-30)).mean() + penalty * (w[:-1] ** 2).sum()
        odds_NC[np.arange(len(y_N)), y_N] -= 1
        off_NC = odds_NC * weight_N[:, None] / len(y_N)
        return value, np.concatenate([z_ND.T @ off_NC + 2 * penalty * w[:-1], off_NC.sum(axis=0)[None]]).ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x.reshape(
        shape
    )
    weights_DC = found[:-1] / spread_D[:, None]
    return weights_DC, found[-1] - mean_D @ weights_DC


def export(
    weights_DC: np.ndarray, biases_C: np.ndarray, names: Sequence[str], kind: str, which: str, out: Path
) -> None:
    """Write a graph from features [1, F, 80] to probabilities [1, C] that says what it knows."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, source = [], "features"
    constants = {"weights": weights_DC.astype(np.float32), "biases": biases_C.astype(np.float32)}
    if which == "edges":
        constants |= {"one": np.array([1]), "last": np.array([-1]), "zero": np.array([0]), "end": np.array([1 << 40])}
        nodes += [
            helper.make_node("Slice", ["features", "one", "end", "one"], ["later"]),
            helper.make_node("Slice", ["features", "zero", "last", "one"], ["earlier"]),
            helper.make_node("Sub", ["later", "earlier"], ["changes"]),
        ]
        source = "changes"
    constants["tiny"] = np.array(1e-6, np.float32)
    nodes += [
        helper.make_node("ReduceMean", [source], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", [source, "mean"], ["away"]),
        helper.make_node("Mul", ["away", "away"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["variance"], axes=[1], keepdims=0),
        helper.make_node("Add", ["variance", "tiny"], ["kept"]),
        helper.make_node("Sqrt", ["kept"], ["deviation"]),
    ]
    found = "deviation"
    if which == "mean":
        found = "statistics"
        nodes += [
            helper.make_node("ReduceMean", [source], ["middle"], axes=[1], keepdims=0),
            helper.make_node("Concat", ["middle", "deviation"], [found], axis=1),
        ]
    nodes += [
        helper.make_node("Gemm", [found, "weights", "biases"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "attribute",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "F", 80])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", len(names)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"kind": kind, "labels": json.dumps(list(names))})
    onnx.checker.check_model(model)
    onnx.save(model, out)


def make(clips: Sequence[tuple[np.ndarray, str]], kind: str, which: str, out: Path, penalty: float = 1e-3) -> list[str]:
    """Fit and write a classifier of some clips; return its labels. Raises UserError where there is nothing to tell."""
    names = sorted({label for _, label in clips})
    if len(names) < 2:
        raise UserError(f"there must be two labels of {kind} or more, and there are {len(names)}: {', '.join(names)}")
    x_ND = np.stack([statistics(pcm, which) for pcm, _ in clips])
    weights_DC, biases_C = fit(x_ND, [label for _, label in clips], names, penalty)
    export(weights_DC, biases_C, names, kind, which, out)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSONL: uri, start, end, and a column of the kind")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--statistics", choices=STATISTICS, default="mean")
    parser.add_argument("--penalty", type=float, default=1e-3, help="of large weights (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    options = parser.parse_args()
    clips = list(rows(options.manifest, options.kind))
    make(clips, options.kind, options.statistics, options.out, options.penalty)
    counts = Counter(label for _, label in clips)
    print(f"{options.out}: {options.kind} of {len(clips)} clips, {dict(sorted(counts.items()))}")


if __name__ == "__main__":
    main()
