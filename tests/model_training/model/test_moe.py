"""The elastic layer against the plain reading of the paper, and what must not move."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model_training import config
from model_training.config import MoESettings, OptimizerSettings
from model_training.model.dispatch import DISPATCHES, Sorted
from model_training.model.experts import Experts
from model_training.model.moe import ElasticMoE
from model_training.model.router import Choice, Routing
from model_training.training.optimizer import make_optimizer

D, WIDTH = 12, 10


@pytest.fixture(autouse=True)
def grouped_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's product of groups of rows, which needs a GPU, by its description: with what it asks of its callers."""

    def product(x_QI: Tensor, w_NIO: Tensor, *, offs: Tensor) -> Tensor:
        stops = offs.tolist()
        assert offs.dtype == torch.int32
        assert stops[-1] == len(x_QI), "rows of no group come back as whatever lay in memory"
        assert all(stop % 8 == 0 for stop in stops), "a gradient's product wants 16 bytes of bfloat16"
        parts = [x_QI[start:stop] @ w for start, stop, w in zip([0, *stops], stops, w_NIO)]
        return torch.cat(parts)

    monkeypatch.setattr(torch, "_grouped_mm", product)


def layer(dtype: torch.dtype = torch.float64, **settings: object) -> ElasticMoE:
    torch.manual_seed(0)
    return ElasticMoE("layer", D, WIDTH, MoESettings(**settings), dropout=0.0).to(dtype)  # type: ignore[arg-type]


def naive(moe: ElasticMoE, x_TD: Tensor, tier: int) -> Tensor:
    """Frame by frame, expert by expert, as the paper's equations read."""
    experts = [
        (stack.w_in_EHD[i], stack.b_in_EH[i], stack.w_out_EHD[i], stack.b_out_ED[i])
        for stack in moe.tiers[: tier + 1]
        for i in range(len(stack.b_out_ED))
    ]
    shared = [] if moe.shared is None else list(zip(*(p for p in moe.shared.parameters())))

    def run(expert: tuple[Tensor, ...], x: Tensor) -> Tensor:
        w_in, b_in, w_out, b_out = expert
        return F.silu(w_in @ x + b_in) @ w_out + b_out

    rows = []
    for x in x_TD:
        scores = moe.routers[tier].weight @ x
        values, chosen = scores.topk(moe.top_k)
        gates = values.softmax(-1) if moe.settings.norm_topk else scores.softmax(-1)[chosen]
        y = sum(gate.to(x.dtype) * run(experts[i], x) for gate, i in zip(gates, chosen.tolist()))
        rows.append(y + sum(run(expert, x) for expert in shared))
    return torch.stack(rows)


CASES = [
    pytest.param({"dispatch": dispatch, "shared": shared, "norm_topk": norm, "top_k": k}, tier)
    for dispatch in ("auto", "sorted", "grouped", "loop")
    for shared in (0, 1, 2)
    for norm in (True, False)
    for k in (1, 3)
    for tier in (0, 2)
    if norm or shared == 1
]


@pytest.mark.parametrize(("settings", "tier"), CASES)
def test_every_dispatch_is_the_naive_sum_forward_and_backward(settings: dict[str, object], tier: int) -> None:
    moe = layer(**settings)
    x = torch.randn(23, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(23, D, dtype=torch.float64)
    got = moe(x, Routing(tier))
    wanted = naive(moe, x, tier)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    parameters = list(moe.parameters())
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), [x, *parameters], allow_unused=True),
        torch.autograd.grad((wanted * weight).sum(), [x, *parameters], allow_unused=True),
    ):
        if b is None:
            assert a is None or not a.any()
        else:
            torch.testing.assert_close(a if a is not None else torch.zeros_like(b), b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_sorted_experts_are_those_of_what_they_answer(dropout: float) -> None:
    torch.manual_seed(0)
    tiers = [Experts(n_experts, 4, 3).double() for n_experts in (2, 3)]  # nobody chooses the fourth of the five
    chosen_TK = torch.tensor([[0, 2], [1, 4], [2, 0], [4, 2], [0, 1]])
    gates_TK = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    x_TD = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    parameters = [parameter for tier in tiers for parameter in tier.parameters()]

    def answer(x_TD: Tensor, gates_TK: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same hidden units are dropped
        return Sorted()(x_TD, Choice(chosen_TK, gates_TK, torch.zeros(5, 5).double()), tiers, dropout)

    assert torch.autograd.gradcheck(answer, (x_TD, gates_TK, *parameters), fast_mode=True)


@pytest.mark.parametrize("dispatch", ["auto", "sorted", "grouped", "loop"])
def test_padding_frames_are_not_routed_and_do_not_count(dispatch: str) -> None:
    moe = layer(dispatch=dispatch)
    x = torch.randn(2, 9, D, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    for tier, n_experts in enumerate((3, 7, 15)):
        routing = Routing(tier, mask_BT=mask)
        got = moe(x, routing)
        torch.testing.assert_close(got[mask], naive(moe, x[mask], tier), rtol=0, atol=1e-6)
        (load,) = routing.loads
        assert load.counts_N.shape == (n_experts,)
        assert load.counts_N.sum() == 13 * 3
        torch.testing.assert_close(
            moe(x.masked_fill(~mask.unsqueeze(-1), 1e9), Routing(tier, mask_BT=mask))[mask], got[mask]
        )


def test_every_dispatch_that_the_settings_name_is_there() -> None:
    assert set(config.DISPATCHES) == {"auto", *DISPATCHES}


def test_no_frames_at_all_is_no_error() -> None:
    for dispatch in ("auto", "sorted", "grouped", "loop"):
        moe = layer(dispatch=dispatch)
        mask = torch.zeros(1, 4, dtype=torch.bool)
        y = moe(torch.randn(1, 4, D, dtype=torch.float64), Routing(1, mask_BT=mask))
        y.sum().backward()
        assert y.shape == (1, 4, D)


def test_groups_are_nested_prefixes_with_routers_of_their_own() -> None:
    moe = layer()
    assert [len(tier.b_out_ED) for tier in moe.tiers] == [3, 4, 8]
    assert [tuple(router.weight.shape) for router in moe.routers] == [(3, D), (7, D), (15, D)]
    assert all(router.bias is None for router in moe.routers)


@pytest.mark.parametrize(
    ("dispatch", "name"), [("auto", "adamw"), ("sorted", "adamw"), ("loop", "adamw"), ("auto", "muon")]
)
@pytest.mark.parametrize("tier", [0, 1, 2])
def test_what_was_not_drawn_does_not_move(dispatch: str, name: str, tier: int) -> None:
    moe = layer(torch.float32, dispatch=dispatch)
    optimizer = make_optimizer(moe, OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.5))
    for drawn in (2, 0, 1):  # every parameter has moments before the step that counts
        optimizer.zero_grad(set_to_none=True)
        moe(torch.randn(20, D), Routing(drawn)).square().sum().backward()
        optimizer.step()
    idle = [
        *(p for stack in moe.tiers[tier + 1 :] for p in stack.parameters()),
        *(router.weight for index, router in enumerate(moe.routers) if index != tier),
    ]
    used = [p for p in moe.parameters() if not any(p is q for q in idle)]
    before = {id(p): p.detach().clone() for p in moe.parameters()}
    state = {id(p): {k: v.clone() for k, v in optimizer.state[p].items()} for p in idle}
    optimizer.zero_grad(set_to_none=True)
    moe(torch.randn(20, D), Routing(tier)).square().sum().backward()
    optimizer.step()
    assert len(idle) == 4 * (2 - tier) + 2
    for p in idle:
        assert p.grad is None
        assert torch.equal(p, before[id(p)])
        assert all(torch.equal(v, state[id(p)][k]) for k, v in optimizer.state[p].items())
    assert all(not torch.equal(p, before[id(p)]) for p in used)


def test_the_router_works_in_float32_under_autocast() -> None:
    moe = layer(torch.float32)
    x = torch.randn(50, D)
    with torch.autocast("cpu", torch.bfloat16):
        routing = Routing(2)
        y = moe(x, routing)
    plain = Routing(2)
    exact = moe(x, plain)
    assert torch.equal(routing.loads[0].counts_N, plain.loads[0].counts_N)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("frames", [1, 5, 40, 700])
def test_spare_rows_under_bfloat16_change_nothing(frames: int) -> None:
    """The sum in bfloat16 differs from the one in float32 by rounding only, forward and backward, however many rows are
    spare.
    """
    moe = layer(torch.float32)
    x = torch.randn(frames, D)
    weight = torch.randn(frames, D)

    def run(autocast: bool) -> list[Tensor]:
        moe.zero_grad(set_to_none=True)
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = moe(inputs, Routing(2))
        (y.float() * weight).sum().backward()
        assert inputs.grad is not None
        return [y.float(), inputs.grad, *(p.grad for p in moe.parameters() if p.grad is not None)]

    for low, exact in zip(run(True), run(False), strict=True):
        assert float((low - exact).norm()) <= 0.02 * float(exact.norm()) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_small_experts_are_the_loop_within_rounding_and_copy_no_frame_twelve_times(dtype: torch.dtype) -> None:
    frames, width, settings = 300, 16, MoESettings(shared=0, experts=[60], top_k=12, dispatch="sorted")
    torch.manual_seed(0)
    moe = ElasticMoE("layer", D, width, settings, 0.0)
    x, weight = torch.randn(frames, D), torch.randn(frames, D)

    def run(dispatch: str, dtype: torch.dtype) -> list[Tensor]:
        moe.settings.dispatch = dispatch
        moe.zero_grad(set_to_none=True)
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = moe(inputs, Routing(0))
        (y.float() * weight).sum().backward()
        assert inputs.grad is not None
        return [y.float(), inputs.grad, *(p.grad for p in moe.parameters() if p.grad is not None)]

    most = 0.01 if dtype == torch.bfloat16 else 1e-6
    for got, wanted in zip(run("sorted", dtype), run("loop", torch.float32), strict=True):
        assert float((got - wanted).norm()) <= most * float(wanted.norm())
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        run("sorted", dtype)
    pairs = frames * settings.top_k
    assert not [tensor.shape for tensor in kept if tensor.dim() == 2 and len(tensor) >= pairs]


def test_the_selection_bias_levels_the_load_and_leaves_gates_alone() -> None:
    moe = layer(torch.float32, balance="bias", bias_rate=0.01, shared=0)
    x = torch.randn(400, D) + 0.5

    def load() -> Tensor:
        routing = Routing(2)
        moe(x, routing)
        return routing.loads[0].counts_N

    uneven = load()
    for _ in range(200):
        moe.update_bias(2, load())
    assert load().max() < 0.6 * uneven.max()
    assert "selection_bias_2" in moe.state_dict()


@pytest.mark.parametrize(("balance", "k"), [("switch", 1), ("sparsity", 1), ("switch", 3)])
def test_balance_losses_have_the_values_of_their_papers(balance: str, k: int) -> None:
    moe = layer(balance=balance, top_k=k, balance_weight=0.5)
    x = torch.randn(30, D, dtype=torch.float64)
    routing = Routing(1)
    moe.train()
    moe(x, routing)
    scores = (x @ moe.routers[1].weight.t()).softmax(-1)
    if balance == "switch":
        counts = torch.bincount(scores.topk(k, -1).indices.flatten(), minlength=7).float()
        wanted = 0.5 * 7 * sum(float(c / (30 * k)) * float(s) for c, s in zip(counts, scores.mean(0)))
    else:
        unit = scores / scores.pow(2).sum(-1, keepdim=True).sqrt()
        wanted = 0.15 * float(unit.sum(-1).mean()) + 0.15 * 7 * float(scores.mean(0).pow(2).sum())
    loss = routing.loss()
    assert loss is not None
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    moe.eval()
    quiet = Routing(1)
    moe(x, quiet)
    assert quiet.loss() is None


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weights_cast_once_a_step_follow_every_way_in_which_weights_move(name: str) -> None:
    torch.manual_seed(0)
    moe = ElasticMoE("layer", 16, 8, MoESettings(experts=[2, 4], top_k=2, dispatch="sorted"), 0.0)
    (experts, _) = moe.active_tiers(1)
    optimizer = make_optimizer(moe, OptimizerSettings(name=name, learning_rate=0.1))
    x = torch.randn(1, 12, 16)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            moe(x, Routing(1)).float().square().sum().backward()

    def current() -> bool:
        return all(
            torch.equal(got, stack.bfloat16()) for got, stack in zip(experts.cast(torch.bfloat16), experts.stacks())
        )

    step()
    first = experts.cast(torch.bfloat16)
    step()
    assert all(again is cast for again, cast in zip(experts.cast(torch.bfloat16), first)), "micro-batches share them"
    optimizer.step()
    assert current()
    assert not torch.equal(first[0], experts.cast(torch.bfloat16)[0])
    moe.load_state_dict({key: value + 1 for key, value in moe.state_dict().items()})
    assert current()
    with torch.inference_mode():
        assert current()
    step()  # what was cast in inference mode could not be saved for backward
    assert (
        pickle.loads(pickle.dumps(moe))
        .active_tiers(1)[0]
        .cast(torch.bfloat16)[0]
        .equal(experts.cast(torch.bfloat16)[0])
    )


@pytest.mark.parametrize("embedding", [0, 1])
def test_frames_are_picked_once_a_layer_where_the_router_sees_what_the_experts_see(embedding: int) -> None:
    settings = MoESettings(experts=[4], top_k=2, shared=0, dispatch="sorted", embedding_layers=embedding)
    moe, mask = ElasticMoE("layer", 8, 8, settings, 0.0), torch.tensor([[True] * 5 + [False] * 2])
    seen = torch.randn(1, 7, 8) if embedding else None
    routing = Routing(0, mask_BT=mask, embedding_BTD=seen)
    with torch.profiler.profile() as profile:
        moe(torch.randn(1, 7, 8), routing)
        moe(torch.randn(1, 7, 8), routing)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::nonzero"] == 1, "a pass looks for its frames once, for all layers"
    assert counts["_Pick"] == 2 * (1 + embedding), "frames, and once more what the router alone sees"
    assert counts["aten::bincount"] == 2, "the report and the dispatch count frames per expert together"
