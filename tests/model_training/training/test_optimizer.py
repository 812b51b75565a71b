"""How weights move: learning rates, the choice of a step, Muon beside AdamW."""

from __future__ import annotations

import copy

import pytest
import torch

from model_training import config
from model_training.training.optimizer import Muon, draw_n_experts, learning_rate, make_optimizer


def test_groups_are_drawn_as_often_as_asked_and_from_seed_and_step_alone() -> None:
    moe = config.MoESettings()
    drawn = [draw_n_experts(7, step, (3, 7, 15), moe) for step in range(3000)]
    assert drawn == [draw_n_experts(7, step, (3, 7, 15), moe) for step in range(3000)]
    assert drawn != [draw_n_experts(8, step, (3, 7, 15), moe) for step in range(3000)]
    for group, share in ((3, 1 / 7), (7, 2 / 7), (15, 4 / 7)):
        assert drawn.count(group) / 3000 == pytest.approx(share, abs=0.03)


def test_muon_makes_every_direction_of_a_matrix_count_alike_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 6), torch.nn.Linear(6, 24), torch.nn.Linear(24, 9))
    names = [name for name, _ in model.named_parameters()]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moves = []
    for name in ("muon", "adamw"):
        optimizer = make_optimizer(model, config.OptimizerSettings(name=name, learning_rate=0.01, weight_decay=0))
        model.load_state_dict(before)
        model(torch.arange(9)).square().sum().backward()
        optimizer.step()
        moves.append({name: parameter.detach() - before[name] for name, parameter in model.named_parameters()})
        optimizer.zero_grad()
    muon, adamw = moves
    other = [name for name in names if not torch.allclose(muon[name], adamw[name])]
    assert other == ["1.weight"], "outputs and embeddings are AdamW's"
    singular = torch.linalg.svdvals(muon["1.weight"]) / (0.01 * 0.2 * 24**0.5)
    assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.3


def test_muon_takes_a_kernel_for_one_matrix_and_a_stack_for_many() -> None:
    torch.manual_seed(0)
    kernel, stack = (torch.nn.Parameter(torch.zeros(4, 6, 3)) for _ in range(2))
    for parameter in (kernel, stack):
        parameter.grad = torch.randn(4, 6, 3)
    Muon([kernel, stack], lr=1.0, weight_decay=0.0, stacks=[stack]).step()
    for moved, longest in ((kernel.detach().flatten(1), 18), (stack.detach(), 6)):
        singular = torch.linalg.svdvals(moved) / (0.2 * longest**0.5)
        assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.3


def test_learning_rates() -> None:
    for schedule, late in (("noam", 0.5), ("cosine", 0.0), ("constant", 1.0)):
        settings = config.OptimizerSettings(learning_rate=1.0, warmup_steps=100, schedule=schedule)
        assert learning_rate(0, settings, 400) == pytest.approx(0.01)
        assert learning_rate(99, settings, 400) == pytest.approx(1.0)
        assert learning_rate(399, settings, 400) == pytest.approx(late)


def test_one_native_loop_on_a_cpu_moves_weights_as_torchs_plain_loop_does() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 4))
    plain = copy.deepcopy(model)
    settings = config.OptimizerSettings(name="adamw", learning_rate=0.01)
    optimizer = make_optimizer(model, settings)
    assert optimizer.defaults["fused"], "where every weight is on the CPU"
    other = torch.optim.AdamW(
        [{"params": [p for p in plain.parameters() if (p.ndim > 1) == decayed], "weight_decay": decay}
         for decayed, decay in ((True, settings.weight_decay), (False, 0.0))],
        lr=settings.learning_rate, betas=tuple(settings.betas), eps=1e-9, fused=False, foreach=False,
    )  # fmt: skip
    x = torch.randn(64, 16)
    for _ in range(50):
        for each, moves in ((model, optimizer), (plain, other)):
            moves.zero_grad()
            each(x).square().mean().backward()
            moves.step()
    for found, expected in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
