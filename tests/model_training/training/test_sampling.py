"""Which sizes a step trains: once a step, for every micro-batch, or by the sandwich rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model_training import config
from model_training.config import ModelSettings, MoESettings, Settings
from model_training.model.speech_model import SpeechModel
from model_training.train import train
from model_training.training.elastic import ElasticLearner
from model_training.training.losses import IGNORE, Answers
from model_training.training.monitor import Monitor
from model_training.training.optimizer import draw_n_experts, draw_sandwich, seed_dropout
from model_training.training.step import accumulate, gather, work
from model_training.training.workers import Workers
from operators.errors import UserError
from tests.model_training.test_train import SMALL, STILL
from tests.model_training.training.test_micro_batch import EVENTS, V, batch
from tests.support.corpus import make_handoff

TINY = ModelSettings(d_model=16, heads=2, d_ff=16, encoder_layers=1, decoder_layers=1, kernel=5, dropout=0.2)


def learner(sampling: str, micro_batches: int = 3, **more: object) -> ElasticLearner:
    torch.manual_seed(0)
    settings = Settings(model=replace(TINY, moe=MoESettings(sampling=sampling, **more)))  # type: ignore[arg-type]
    settings.data.micro_batches = micro_batches
    return ElasticLearner(SpeechModel(settings.model, V), settings, EVENTS)


def grads(one: ElasticLearner) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}


def test_a_micro_batch_draws_a_size_as_a_step_does() -> None:
    one, steps = learner("micro_batch", 4), range(200)
    drawn = [draw_n_experts(0, number, (3, 7, 15), one.settings.model.moe) for number in range(4 * len(steps))]
    for step in steps:
        assert one.begin_step(step) == tuple(sorted(set(drawn[4 * step : 4 * step + 4])))
    counts = Counter(drawn)
    for size, share in zip((3, 7, 15), (1 / 7, 2 / 7, 4 / 7), strict=True):
        assert counts[size] / len(drawn) == pytest.approx(share, abs=0.06)


def test_a_step_of_one_micro_batch_is_the_same_drawn_either_way() -> None:
    by_batch, by_step = learner("micro_batch", 1), learner("step", 1)
    assert [by_batch.begin_step(step) for step in range(50)] == [by_step.begin_step(step) for step in range(50)]


def test_the_sandwich_has_the_ends_and_one_between() -> None:
    sizes, moe = (3, 4, 5, 6, 15), MoESettings()
    drawn = [draw_sandwich(1, step, sizes, moe) for step in range(400)]
    assert drawn == [draw_sandwich(1, step, sizes, moe) for step in range(400)]
    assert {(first, last) for first, _, last in drawn} == {(15, 3)}
    counts = Counter(between for _, between, _ in drawn)
    assert [counts[size] / 400 for size in (4, 5, 6)] == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.07)
    assert draw_sandwich(1, 0, (3, 15), moe) == (15, 3)
    weighted = MoESettings(experts=list(sizes), group_weights=[0, 1, 0, 0, 0])
    assert {draw_sandwich(1, step, sizes, weighted) for step in range(20)} == {(15, 4, 3)}


def test_a_step_of_micro_batches_sums_the_gradients_of_each_at_its_size() -> None:
    one = learner("micro_batch")
    step = next(step for step in range(99) if one.begin_step(step) == (3, 7))  # 15 is left out
    given = [replace(batch(2 * n, 2 * n + 1), global_batch=3 * step + n) for n in range(3)]
    total, _ = work(one, given, (3, 7), Workers(), lambda *_: None)
    found = grads(one)
    one.model.zero_grad()
    for each in given:
        n_experts = draw_n_experts(0, each.global_batch, (3, 7, 15), one.settings.model.moe)
        seed_dropout(0, each.global_batch)
        one.losses(each, n_experts).objective_B.sum().backward()
    wanted = grads(one)
    assert set(wanted) <= set(found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(gradient)), msg=name)
        assert not any(part in name for part in (".tiers.2.", ".routers.2.")), "nobody drew it"
    assert total.clips == 6
    assert {n: len(next(iter(loads.values()))) for n, loads in total.loads.items()} == {3: 3, 7: 7}


def test_a_sandwich_sums_three_passes_of_which_two_learn_from_the_first() -> None:
    one, given = learner("sandwich"), batch(0, 1, 2)
    one.settings.loss.distill_weight = 0.7
    total, _ = work(one, [given], one.begin_step(0), Workers(), lambda *_: None)
    found = grads(one)
    one.model.zero_grad()
    apart, loss = 0.0, one.settings.loss
    taught: Answers | None = None
    for n_experts in (15, 7, 3):
        seed_dropout(0, given.global_batch)
        outputs, own = one.forward(given, n_experts)  # without a teacher: the labels' part
        objective = own.objective_B.sum()
        if taught is not None:
            # Kullback-Leibler by hand, clip by clip, frame by frame
            divergence = torch.zeros(())
            for clip in range(3):
                for frame in range(int(outputs.encoded_lengths_B[clip])):
                    teacher = torch.distributions.Categorical(logits=taught.ctc_logits_BSV[clip, frame])
                    said = torch.distributions.Categorical(logits=outputs.ctc_logits_BSV[clip, frame])
                    divergence = divergence + loss.ctc_weight * torch.distributions.kl_divergence(teacher, said)
                for place, token in enumerate(given.decoder_targets_BL[clip]):
                    if token != IGNORE:
                        teacher = torch.distributions.Categorical(logits=taught.logits_BLV[clip, place])
                        said = torch.distributions.Categorical(logits=outputs.logits_BLV[clip, place])
                        kl = torch.distributions.kl_divergence(teacher, said)
                        divergence = divergence + (1 - loss.ctc_weight) * kl
            objective, apart = objective + 0.7 * divergence, apart + float(divergence)
        else:
            taught = Answers(outputs.ctc_logits_BSV.detach(), outputs.logits_BLV.detach())
        objective.backward()
    wanted = grads(one)
    assert found.keys() == wanted.keys() == {name for name, _ in one.model.named_parameters()}
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    assert apart > 0.01
    assert total.means()["distillation"] == pytest.approx(apart / 9, rel=1e-3), "the mean over three passes"
    assert total.clips == 9, "each clip taught three times"
    assert total.frames == 3 * 70, "but was heard once"


def test_the_teacher_learns_nothing_from_its_pupils() -> None:
    one, given = learner("sandwich"), batch(0, 1)
    passes = one.passes(given, (15, 3))
    seed_dropout(0, given.global_batch)
    _, first = next(passes)
    assert first.answers is not None
    assert not first.answers.ctc_logits_BSV.requires_grad
    _, second = next(passes)
    second.objective_B.sum().backward()
    moved = grads(one)
    assert not any(f".tiers.{tier}." in name for name in moved for tier in (1, 2)), "these are the largest's alone"


def test_a_clip_that_any_pass_spoils_is_left_out_of_all() -> None:
    one, bad = learner("sandwich"), list[str]()
    passes = one.passes

    def spoil(given, variants):  # type: ignore[no-untyped-def]
        for n_experts, found in passes(given, variants):
            if n_experts == 7 and "clip1" in given.clip_ids:
                found.objective_B = found.objective_B * torch.tensor([1.0, float("nan"), 1.0])
            yield n_experts, found

    object.__setattr__(one, "passes", spoil)
    total, _ = work(one, [batch(0, 1, 2)], (15, 7, 3), Workers(), lambda clip_id, *_: bad.append(clip_id))
    assert bad == ["clip1"]
    assert total.clips == 6


def test_what_a_sharded_pass_leaves_out_has_a_gradient_to_send_and_is_not_moved_by_it() -> None:
    one, plain = learner("micro_batch", 1), learner("micro_batch", 1)
    for layer in one.model.moe_layers():
        layer.touches_all = True
    step = next(step for step in range(99) if one.begin_step(step) == (3,))
    given = replace(batch(0, 1), global_batch=step)
    for each in (one, plain):
        accumulate(each, given, (3,), each.totals())
    assert grads(one).keys() == {name for name, _ in one.model.named_parameters()}
    for each in (one, plain):
        gather(each, (3,), Workers(), each.totals())
    found, wanted = grads(one), grads(plain)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_handoff(tmp_path_factory.mktemp("handoff"), train=24, dev=4)


@pytest.mark.parametrize("sampling", ["micro_batch", "sandwich"])
def test_a_run_gone_on_has_the_weights_of_one_in_peace(
    handoff: Path, tmp_path: Path, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monitor, "pictures", lambda self: lambda: None)  # they take longer than the training
    extra = [*SMALL, *STILL, f"model.moe.sampling={sampling}", "model.encoder_layers=1", "model.moe.balance=bias"]
    extra += ["data.max_clips=2", "train.eval_clips=0"]

    def go(name: str, steps: int) -> dict[str, torch.Tensor]:
        train(str(handoff), tmp_path / name, config.load(None, [*extra, f"train.max_steps={steps}"]))
        return load_file(tmp_path / name / f"step-{steps:08d}" / "model.safetensors")

    whole = go("whole", 3)
    go("parts", 1)
    for name, tensor in go("parts", 3).items():
        assert torch.equal(tensor, whole[name]), name
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert '"group": "3+7+15"' in log if sampling == "sandwich" else '"group"' in log
    assert ("distillation" in log) == (sampling == "sandwich")
    settings = config.load(None, [*extra, "model.moe.sampling=step", "train.max_steps=5"])
    with pytest.raises(UserError, match=r"another model\.moe\.sampling"):
        train(str(handoff), tmp_path / "whole", settings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["model.moe.sampling=batch"], ["model.moe.sampling=batch", "micro_batch", "sandwich"]),
        (["model.moe.sampling=sandwich", "model.moe.experts=[7]"], ["model.moe.sampling", "say step"]),
        (["model.moe.sampling=sandwich", "model.moe.ffn=none"], ["model.moe.sampling", "dense", "say step"]),
        (["model.moe.sampling=sandwich", "model.moe.group_weights=[1,0,1]"], ["model.moe.group_weights", "above 0"]),
        (["loss.distill_weight=-1"], ["loss.distill_weight", "at least 0"]),
    ],
)
def test_what_cannot_be_trained_so_is_one_line(given: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        config.load(None, given)
    assert all(word in str(caught.value) for word in words)
    assert len(str(caught.value).splitlines()) == 1


def test_a_size_alone_is_exported_from_a_sandwich() -> None:
    small = learner("sandwich").model.pruned(7)
    config.restore({"model": config.to_dict(small.settings)})  # what an export keeps can be read again
