"""The elastic layer against a dense one of equal active FLOPs: a training step and a forward pass, in one run.

    python -m benchmarks.moe                     d_model 512, d_ff 2048, 750 and 3000 frames
    python -m benchmarks.moe --d-model 768 --d-ff 2432 --device cuda

Every number is a median over interleaved rounds, so that a slow moment of the machine hits all variants alike. The
dense layer has as many hidden units as the experts that a frame goes through, S + K of them: (1 + 3) * d_ff / 2 at the
paper's S=1, N=15, K=3.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.targets import show_targets
from model_training.config import MoESettings
from model_training.model.experts import FeedForward
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing

TABLE_3 = {
    "MoE S=0 N=8 K=2": (0, 8, 2),
    "S=1 N=15 K=3": (1, 15, 3),
    "S=2 N=30 K=6": (2, 30, 6),
    "S=4 N=60 K=12": (4, 60, 12),
}


def elastic(d_model: int, d_ff: int, shared: int, experts: list[int], top_k: int, dispatch: str) -> ElasticMoE:
    settings = MoESettings(shared=shared, experts=experts, top_k=top_k, dispatch=dispatch)
    return ElasticMoE("layer", d_model, d_ff * 8 // (shared + experts[-1]), settings, 0.0)


def timed(
    layers: dict[str, tuple[nn.Module, int]], x: Tensor, *, train: bool, rounds: int, autocast: bool
) -> dict[str, float]:
    """Median seconds of each variant; the value is (layer, tier)."""

    def once(layer: nn.Module, tier: int) -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast), torch.set_grad_enabled(train):
            y = layer(x, Routing(tier))
        if train:
            y.float().square().mean().backward()

    def clock(run: Callable[[], None]) -> float:
        if x.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    times: dict[str, list[float]] = {name: [] for name in layers}
    for number in range(rounds + 2):
        for name, (layer, tier) in layers.items():
            layer.zero_grad(set_to_none=True)
            x.grad = None
            seconds = clock(lambda layer=layer, tier=tier: once(layer, tier))
            if number >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def floor(
    d_model: int, d_ff: int, frames: int, *, train: bool, rounds: int, dtype: torch.dtype, device: torch.device
) -> float:
    """What the matrix products alone cost at S=1, N=15, K=3 when loads are even, over those of the dense layer: no
    implementation that calls one product per expert comes below."""
    width, rows = d_ff // 2, frames * 3 // 15

    def block(rows: int, hidden: int) -> Callable[[], None]:
        shapes = ((rows, d_model), (hidden, d_model), (rows, hidden))
        x_RD, w_HD, h_RH = (torch.randn(shape, dtype=dtype, device=device) for shape in shapes)
        dw_HD = torch.empty_like(w_HD)

        def products() -> None:
            _, _ = x_RD @ w_HD.t(), h_RH @ w_HD
            if train:  # the gradients of both inputs and of both weights
                _, _ = h_RH @ w_HD, x_RD @ w_HD.t()
                torch.mm(h_RH.t(), x_RD, out=dw_HD)
                torch.mm(h_RH.t(), x_RD, out=dw_HD)

        return products

    split = [block(frames, width)] + [block(rows, width) for _ in range(15)]
    whole = block(frames, 4 * width)
    times: dict[str, list[float]] = {"split": [], "whole": []}
    for _ in range(rounds + 2):
        for name, parts in (("whole", [whole]), ("split", split)):
            began = time.perf_counter()
            for part in parts:
                part()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    return statistics.median(times["split"][2:]) / statistics.median(times["whole"][2:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--d-ff", type=int, default=2048)
    parser.add_argument("--frames", type=int, nargs="*", default=[750, 3000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    D, H, device = options.d_model, options.d_ff, torch.device(options.device)
    print(
        f"d_model {D}, d_ff {H}, {options.device}, {options.threads} thread(s), "
        f"{'bf16 autocast' if options.bf16 else 'fp32'}\n"
    )
    sizes = [3, 7, 15]
    nested = {how: elastic(D, H, 1, sizes, 3, how).to(device) for how in ("auto", "loop")}
    layers: dict[str, tuple[nn.Module, int]] = {
        "dense, equal active FLOPs": (FeedForward(D, 2 * H, 0.0).to(device), 0),
        "eMoE N=3": (nested["auto"], 0),
        "eMoE N=7": (nested["auto"], 1),
        "eMoE N=15": (nested["auto"], 2),
        "eMoE N=15, loop over experts with masks": (nested["loop"], 2),
    }
    slower: list[tuple[str, float, float]] = []
    gains: list[tuple[str, float, float]] = []
    table = {name: (elastic(D, H, s, [n], k, "auto").to(device), 0) for name, (s, n, k) in TABLE_3.items()}
    for frames in options.frames:
        x = torch.randn(1, frames, D, device=device, requires_grad=True)
        for train in (True, False):
            kind = "training step" if train else "forward"
            found = timed(layers, x, train=train, rounds=options.rounds, autocast=options.bf16)
            base = found["dense, equal active FLOPs"]
            print(f"| {frames} frames, {kind} | ms | over dense |\n|---|--:|--:|")
            for name, seconds in found.items():
                print(f"| {name} | {1000 * seconds:.1f} | {seconds / base:.2f} |")
            dtype = torch.bfloat16 if options.bf16 else torch.float32
            bare = floor(D, H, frames, train=train, rounds=options.rounds, dtype=dtype, device=device)
            print(f"| floor: the products of N=15 alone, even loads | | {bare:.2f} |")
            routed, loop = found["eMoE N=15"], found["eMoE N=15, loop over experts with masks"]
            print()
            gains.append((f"loop over experts with masks / routed, {frames} frames, {kind}", 2.0, loop / routed))
            if train:
                slower += [
                    (f"{n}, training step, {frames} frames, over dense", 1.15, found[n] / base)
                    for n in list(layers)[1:4]
                ]
        found = timed(table, x, train=True, rounds=options.rounds, autocast=options.bf16)
        print(f"| Table 3, {frames} frames, training step | ms | over the fastest |\n|---|--:|--:|")
        for name, seconds in found.items():
            print(f"| {name} | {1000 * seconds:.1f} | {seconds / min(found.values()):.2f} |")
        print()
        spread = max(found.values()) / min(found.values())  # the paper's training times grew fourfold
        slower.append((f"Table 3's configurations, {frames} frames, slowest / fastest", 1.3, spread))
    show_targets(slower)
    show_targets(gains, at_least=True, digits=1)


if __name__ == "__main__":
    main()
