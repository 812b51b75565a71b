"""What elastic experts cost in onnxruntime, against a dense model of equal active FLOPs, in one run.

    one elastic model ──pruned(3), pruned(7), pruned(15)──┐
    a dense one, d_ff = (S + K) * expert width ───────────┴─ONNX──> layers, encoders, timed in turn ──> Markdown tables

    python -m benchmarks.onnx_speed                     d_model 256, 4 blocks: about three minutes on one core
    python -m benchmarks.onnx_speed --rounds 5          quicker and coarser
    python -m benchmarks.onnx_speed --d-model 512 --d-ff 2048 --blocks 12

Each round times every model once, so a change of the machine's mood hits all alike. Times are processor time of one
thread: what other programs take is not counted, though what they do to the caches is. The ratio is of the fastest
rounds; beside it stands the ratio of the medians. A missed target is a result, not an error.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnxruntime
import torch

from benchmarks.targets import show_targets
from model_training.config import ModelSettings, MoESettings
from model_training.export.onnx_files import OPSET, quantise, write_graphs
from model_training.export.onnx_modules import traceable
from model_training.model.router import Routing
from model_training.model.speech_model import SpeechModel

GROUPS = (3, 7, 15)
TARGETS = {3: 1.02, 15: 1.15}
"""At most this much longer than dense."""
VOCABULARY = 5000
SECONDS_PER_FRAME = 0.01

Feed = dict[str, np.ndarray]
Times = dict[str, list[float]]


class OneBlock(torch.nn.Module):
    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        y_BSD: torch.Tensor = self.block(x_BSD, Routing(0))
        return y_BSD


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--d-ff", type=int, default=1024, help="of the dense model that the experts were cut from")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--int8", action="store_true", help="the encoders in 8 bits as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = make_models(options.d_model, options.d_ff, options.blocks)
    print(f"onnxruntime {onnxruntime.__version__}, one thread of {processor()}; other load {os.getloadavg()[0]:.1f}")
    width = options.d_ff * 8 // 16
    print(f"d_model {options.d_model}, expert width {width}, S = 1, K = 3; dense: d_ff {4 * width}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        layers = {
            name: layer_session(model, folder / f"{number}.onnx") for number, (name, model) in enumerate(models.items())
        }
        targets: list[tuple[str, float, float]] = []
        print("One feed-forward layer\n")
        for frames in (750, 1500, 3000):
            x_BSD = np.random.default_rng(0).normal(size=(1, frames, options.d_model)).astype(np.float32)
            targets += show(f"{frames} frames", in_turn(layers, {"x": x_BSD}, options.rounds))
        for kind in ("float32", "int8") if options.int8 else ("float32",):
            encoders = {name: encoder_session(model, folder, kind) for name, model in models.items()}
            print(f"\nEncoder of {options.blocks} blocks with CTC head, {kind}\n")
            for frames in (3003, 6003):  # 750 and 1500 frames of 40 ms after sub-sampling
                features_BF80 = np.random.default_rng(1).normal(size=(1, frames, 80)).astype(np.float32)
                feed = {"features": features_BF80, "lengths": np.array([frames])}
                times = in_turn(encoders, feed, max(3, options.rounds // 2))
                targets += show(f"{(frames - 3) // 4} frames", times, seconds=frames * SECONDS_PER_FRAME)
    show_targets(targets, digits=3)


def make_models(d_model: int, d_ff: int, blocks: int) -> dict[str, SpeechModel]:
    """Dense first, then the sizes of one elastic model. Their decoders are small: they are not timed."""
    moe = MoESettings(experts=list(GROUPS))
    sizes: dict[str, Any] = {"d_model": d_model, "heads": 4, "encoder_layers": blocks, "decoder_layers": 1}
    dense = ModelSettings(d_ff=4 * (d_ff * 8 // 16), moe=MoESettings(ffn="none"), **sizes)
    elastic = SpeechModel(ModelSettings(d_ff=d_ff, moe=moe, **sizes), VOCABULARY).eval()
    return {"dense": SpeechModel(dense, VOCABULARY).eval()} | {f"N = {n}": elastic.pruned(n).eval() for n in GROUPS}


def layer_session(model: SpeechModel, path: Path) -> onnxruntime.InferenceSession:
    block = OneBlock(traceable(model).encoder.blocks[0].second_ffn).eval()  # type: ignore[union-attr, arg-type]
    example = torch.zeros(1, 20, model.settings.d_model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": {1: "frames"}}
        torch.onnx.export(
            block, (example,), str(path), input_names=["x"], dynamic_axes=axes, opset_version=OPSET, dynamo=False
        )
    return session(path)


def encoder_session(model: SpeechModel, folder: Path, kind: str) -> onnxruntime.InferenceSession:
    write_graphs(model, folder)
    if kind == "float32":
        return session(folder / "encoder.onnx")
    quantise(folder / "encoder.onnx", folder / "small.onnx")
    return session(folder / "small.onnx")


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def in_turn(sessions: Mapping[str, onnxruntime.InferenceSession], feed: Feed, rounds: int) -> Times:
    times: Times = {name: [] for name in sessions}
    for number in range(rounds + 1):
        for name, one in sessions.items():
            began = time.thread_time()
            one.run(None, feed)
            if number:  # the first round only warms up
                times[name].append(time.thread_time() - began)
    return times


def show(title: str, times: Times, seconds: float | None = None) -> list[tuple[str, float, float]]:
    """Print a table; answers what has a target as (what, wanted, measured)."""
    what = f"ONNX {'layer' if seconds is None else 'encoder'}, {title}"
    judged = []
    speed = [] if seconds is None else ["real-time factor"]
    head = [title, "ms", "ratio", "of medians", "target", *speed]
    rows = [head, ["---"] * len(head)]
    for name, mine in times.items():
        target = TARGETS.get(int(name.removeprefix("N = ")) if name != "dense" else 0)
        ratio = min(mine) / min(times["dense"])
        verdict = "" if target is None else f"{target:.2f} {'met' if ratio <= target else 'missed'}"
        if target is not None:
            judged.append((f"{what}, {name}, over dense", target, ratio))
        median = float(np.median(mine)) / float(np.median(times["dense"]))
        factor = [] if seconds is None else [f"{min(mine) / seconds:.4f}"]
        rows.append([name, f"{min(mine) * 1e3:.1f}", f"{ratio:.3f}", f"{median:.3f}", verdict, *factor])
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), flush=True)
    print()
    return judged


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
