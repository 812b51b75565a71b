"""One micro-batch: a clip whose loss is no number costs itself alone, and what is known of a clip is always taught."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model_training.config import LossSettings, ModelSettings, Settings
from model_training.data.reading import Batch
from model_training.model.chunks import draw_chunk
from model_training.model.speech_model import SpeechModel
from model_training.training.elastic import ElasticLearner
from model_training.training.optimizer import make_optimizer
from model_training.training.step import Totals, accumulate, work
from model_training.training.workers import Workers
from operators.index import Row

V = 30
EVENTS = range(26, 30)


def model() -> SpeechModel:
    torch.manual_seed(0)
    small = {
        "d_model": 32,
        "heads": 2,
        "d_ff": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "kernel": 5,
        "dropout": 0.0,
    }
    return SpeechModel(ModelSettings(**small), V)


def batch(*places: int, events_known: bool = True) -> Batch:
    """The clips at these places of an endless list, two tokens each, with an event."""
    generator = [np.random.default_rng(place) for place in places]
    names = [f"clip{place}" for place in places]
    row = {"shard": "x", "offset": 0, "size": 1, "frames": 70, "label_tokens": 2, "label": "a", "domain": "d"}
    return Batch(
        features_BT80=torch.tensor(np.array([g.standard_normal((70, 80)) for g in generator]), dtype=torch.float32),
        feature_lengths_B=torch.full((len(places),), 70),
        ctc_targets_BU=torch.tensor([[5, 26, 0]] * len(places)),
        ctc_lengths_B=torch.full((len(places),), 2),
        decoder_inputs_BL=torch.tensor([[2, 4, 5, 26]] * len(places)),
        decoder_targets_BL=torch.tensor([[-1, 5, 26, 3]] * len(places)),
        decoder_lengths_B=torch.full((len(places),), 4),
        content_B2=torch.tensor([[1, 3]] * len(places)),
        events_known_B=torch.full((len(places),), events_known),
        clip_ids=names,
        rows=[Row(clip_id=name, **row) for name in names],
        global_batch=7,
        bad=(),
    )


def gradients(given: Batch) -> tuple[dict[str, torch.Tensor], Totals, list[tuple[str, str]]]:
    """Gradients of a step of one micro-batch, its sums, and the bad clips that were named."""
    learner, bad = ElasticLearner(model(), Settings(), EVENTS), list[tuple[str, str]]()
    total, _ = work(learner, [given], (15,), Workers(), lambda clip_id, reason, detail: bad.append((clip_id, reason)))
    return {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}, total, bad


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_a_clip_without_a_finite_loss_is_named_and_the_others_teach_as_if_it_were_not_there(poison: float) -> None:
    three = batch(0, 1, 2)
    three.features_BT80[1] = poison
    found, total, bad = gradients(three)
    wanted, _, _ = gradients(batch(0, 2))
    assert bad == [("clip1", "non_finite_loss")]
    assert total.clips == 2
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_batch_of_such_clips_alone_teaches_nothing() -> None:
    two = batch(0, 1)
    two.features_BT80[:] = math.nan
    found, total, bad = gradients(two)
    assert [clip for clip, _ in bad] == ["clip0", "clip1"]
    assert not any(gradient.any() for gradient in found.values())
    assert total.clips == 0


def test_blocks_computed_again_on_the_way_back_give_the_same_gradients_and_loads() -> None:
    settings = ModelSettings(d_model=32, heads=2, d_ff=32, encoder_layers=2, decoder_layers=1, kernel=5, dropout=0.1)
    settings.moe.balance = "sparsity"
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        one = SpeechModel(settings, V)
        one.encoder.recompute = recompute
        learner = ElasticLearner(one, Settings(model=settings), EVENTS)
        total, gradients = work(learner, [batch(0, 1), batch(2, 3)], (7,), Workers(), lambda *_: None)
        found.append([*gradients, *total.loads[7].values(), torch.tensor(list(total.means().values()))])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(kept, again, rtol=0, atol=0)


def test_a_micro_batch_is_trained_by_the_chunk_of_its_number_and_judged_on_the_whole() -> None:
    sizes = ModelSettings(d_model=32, heads=2, d_ff=32, encoder_layers=2, decoder_layers=1, dropout=0.0)
    settings = Settings(model=replace(sizes, kernel=5, causal=True, dynamic_chunks=True))
    learner = ElasticLearner(SpeechModel(settings.model, V), settings, EVENTS)
    drawn = {number: draw_chunk(settings.train.seed, number) for number in range(8)}
    assert len(set(drawn.values())) > 3
    for number, chunk in drawn.items():
        given = replace(batch(0, 1), global_batch=number)
        for one in (given, given.only([False, True])):  # the same chunk when a clip of it is left out
            outputs, _ = learner.forward(one, 15)
            encoded, _ = learner.model.encode(one.features_BT80, one.feature_lengths_B, 15, chunk)
            torch.testing.assert_close(outputs.ctc_logits_BSV, learner.model.ctc_logits(encoded))
    learner.model.eval()
    outputs, _ = learner.forward(given, 15)
    whole, _ = learner.model.encode(given.features_BT80, given.feature_lengths_B, 15)
    torch.testing.assert_close(outputs.ctc_logits_BSV, learner.model.ctc_logits(whole))


def test_an_event_is_taught_even_when_others_of_its_clip_are_unknown() -> None:
    settings = Settings(loss=LossSettings(label_smoothing=0.0))
    _, known = ElasticLearner(model(), settings, EVENTS).forward(batch(0), 15)
    outputs, found = ElasticLearner(model(), settings, EVENTS).forward(batch(0, events_known=False), 15)
    outputs.logits_BLV.retain_grad()
    outputs.ctc_logits_BSV.retain_grad()
    found.objective_B.sum().backward()
    assert found.objective_B.item() < known.objective_B.item(), "fewer tokens to choose from"
    for gradient in (outputs.logits_BLV.grad[0, 2], outputs.ctc_logits_BSV.grad[0].sum(0)):
        assert gradient[26] < 0, "pushed up"
        assert not gradient[27:].any(), "nobody knows whether these are heard"


def test_a_text_of_unknown_language_teaches_that_it_ends_and_not_in_which() -> None:
    settings = Settings(loss=LossSettings(label_smoothing=0.0))
    ends = [7, 8, 9]
    learner = ElasticLearner(model(), settings, EVENTS, text_ends=ends)
    given = batch(0)
    given.decoder_targets_BL[0, 3] = -2
    for _ in range(2):  # as it begins, and where one of them is likelier than the others
        outputs, found = learner.forward(given, 15)
        outputs.logits_BLV.retain_grad()
        found.objective_B.sum().backward()
        gradient = outputs.logits_BLV.grad[0, 3]
        shares = outputs.logits_BLV.detach()[0, 3, ends].softmax(0)
        assert (gradient[ends] < 0).all()
        assert (gradient[[5, 26, 3]] > 0).all()
        torch.testing.assert_close(gradient[ends] / gradient[ends].sum(), shares)
        with torch.no_grad():
            learner.model.decoder.out.bias[8] += 2
    assert found.tokens == 2, "no one token is right there, so none is counted"


def test_only_weights_decay() -> None:
    """Biases of experts and of attention heads are matrices, and biases none the less."""
    trained = model()
    decayed, rest = make_optimizer(trained, Settings().optimizer).param_groups
    names = {id(p): name for name, p in trained.named_parameters()}
    still = {names[id(p)].rpartition(".")[2] for p in rest["params"]}
    moved = {names[id(p)].rpartition(".")[2] for p in decayed["params"]}
    assert decayed["weight_decay"] > 0 == rest["weight_decay"]
    assert {"b_in_EH", "b_out_ED", "content_bias_HW", "position_bias_HW", "bias"} <= still
    assert moved == {"weight", "w_in_EHD", "w_out_EHD"}


def test_the_way_back_is_no_less_exact_than_the_way_there() -> None:
    """In bfloat16 the routers compute in float32, and so do their gradients: autocast is of the way there alone."""
    learner = ElasticLearner(model(), Settings(), EVENTS, autocast=torch.bfloat16)
    accumulate(learner, batch(0, 1), (15,), learner.totals())
    found = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad()
    with learner.precision():
        _, losses = learner.forward(batch(0, 1), 15)
        objective = losses.objective_B.sum() + (0 if losses.balance is None else losses.balance * 2)
    with torch.autocast("cpu", enabled=False):
        objective.backward()
    wanted = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
    assert any("router" in name for name in wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0, msg=name)
