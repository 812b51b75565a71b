"""The whole model: a clip alone equals a clip in a batch, the future stays unseen, sizes are the papers'."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model_training import config
from model_training.config import ModelSettings, MoESettings
from model_training.model.conformer import RelativeAttention, relative_positions, subsampled
from model_training.model.decoder import Cache, turned
from model_training.model.flops import flops
from model_training.model.speech_model import SpeechModel
from model_training.training.losses import attention_loss, losses
from operators.errors import UserError

V = 30


def small(**changes: object) -> SpeechModel:
    torch.manual_seed(0)
    settings = {
        "d_model": 32,
        "heads": 2,
        "d_ff": 32,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "kernel": 5,
        "dropout": 0.0,
    }
    return SpeechModel(ModelSettings(**(settings | changes)), V).eval()  # type: ignore[arg-type]


def features(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(len(lengths), max(lengths), 80)
    for row, length in enumerate(lengths):
        x[row, length:] = 1e3  # what lies behind the end must not matter
    return x, torch.tensor(lengths)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ffn", ["all", "second", "none"])
def test_a_clip_alone_equals_a_clip_in_a_batch(ffn: str, causal: bool) -> None:
    model = small(causal=causal, moe=MoESettings(ffn=ffn))
    for n_experts in model.sizes:
        x, lengths = features(61, 90, 7)
        inputs = torch.randint(4, V, (3, 9))
        encoded, encoded_lengths = model.encode(x, lengths, n_experts)
        logits = model.decode(encoded, encoded_lengths, inputs, n_experts)
        assert encoded_lengths.tolist() == [subsampled(torch.tensor(n)).item() for n in (61, 90, 7)]
        for row, length in enumerate(lengths.tolist()):
            alone, alone_length = model.encode(x[row : row + 1, :length], lengths[row : row + 1], n_experts)
            torch.testing.assert_close(
                encoded[row, : alone_length[0]], alone[0, : alone_length[0]], rtol=1e-4, atol=1e-5
            )
            answer = model.decode(alone, alone_length, inputs[row : row + 1], n_experts)
            torch.testing.assert_close(logits[row], answer[0], rtol=1e-4, atol=1e-5)


def test_a_causal_encoder_does_not_hear_the_future() -> None:
    model = small(causal=True)
    x, lengths = features(101)
    encoded, _ = model.encode(x, lengths, 15)
    changed = x.clone()
    changed[:, 60:] += 1.0
    other, _ = model.encode(changed, lengths, 15)
    first = (60 - 7) // 4 + 1  # the frames whose receptive field ends before 60
    torch.testing.assert_close(encoded[:, :first], other[:, :first])
    assert not torch.allclose(encoded[:, first + 1], other[:, first + 1])


def test_relative_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    S, D, H = 7, 16, 2
    attention = RelativeAttention(D, H, 0.0).double()
    for bias in (attention.content_bias_HW, attention.position_bias_HW):
        torch.nn.init.normal_(bias)
    x = torch.randn(1, S, D, dtype=torch.float64)
    positions = relative_positions(S, D, x).double()
    mask = torch.ones(1, S, S, dtype=torch.bool)
    mask[..., -1] = False
    got = attention(x, positions, mask)
    q, k, v = (part(x)[0].view(S, H, -1) for part in (attention.query, attention.key, attention.value))
    p = attention.position(positions).view(-1, H, D // H)
    out = torch.zeros(S, H, D // H, dtype=torch.float64)
    for h in range(H):
        for i in range(S):
            scores = torch.stack(
                [
                    (q[i, h] + attention.content_bias_HW[h]) @ k[j, h]
                    + (q[i, h] + attention.position_bias_HW[h]) @ p[S - 1 - (i - j), h]
                    for j in range(S - 1)
                ]
            )
            out[i, h] = (scores / (D // H) ** 0.5).softmax(0) @ v[: S - 1, h]
    torch.testing.assert_close(got[0], attention.out(out.flatten(1)))


def test_token_by_token_equals_all_at_once() -> None:
    model = small()
    x, lengths = features(80, 55)
    encoded, encoded_lengths = model.encode(x, lengths, 7)
    inputs = torch.randint(4, V, (2, 8))
    whole = model.decode(encoded, encoded_lengths, inputs, 7)
    cache = Cache()
    parts = [model.decode(encoded, encoded_lengths, inputs[:, :3], 7, cache=cache)]
    parts += [model.decode(None, encoded_lengths, inputs[:, i : i + 1], 7, cache=cache) for i in range(3, 8)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    swapped = cache.pick(torch.tensor([1, 0, 1]))
    assert len(swapped) == 8
    torch.testing.assert_close(swapped.own[0][0][0], cache.own[0][0][1])


@pytest.mark.parametrize("balance", ["none", "bias", "sparsity"])
def test_a_pruned_model_is_the_full_model_at_its_group_to_the_bit(balance: str) -> None:
    moe = MoESettings(balance=balance, embedding_layers=int(balance == "sparsity"))
    model = small(extra_decoders=2, reverse_layers=int(balance == "sparsity"), moe=moe)
    if balance == "bias":
        for layer in model.moe_layers():
            for index in range(3):
                getattr(layer, f"selection_bias_{index}").normal_()
    x, lengths = features(70, 41)
    inputs = torch.randint(4, V, (2, 6))
    with torch.inference_mode():
        for n_experts in model.sizes:
            pruned = model.pruned(n_experts)
            assert pruned.sizes == (n_experts,)
            full_encoded, full_lengths = model.encode(x, lengths, n_experts)
            encoded, encoded_lengths = pruned.encode(x, lengths, n_experts)
            assert torch.equal(pruned.ctc_logits(encoded), model.ctc_logits(full_encoded))
            a = pruned.decode(encoded, encoded_lengths, inputs, n_experts)
            assert torch.equal(a, model.decode(full_encoded, full_lengths, inputs, n_experts))
            if model.reverse_decoder is not None:
                a = pruned.decode(encoded, encoded_lengths, inputs, n_experts, reverse=True)
                assert torch.equal(a, model.decode(full_encoded, full_lengths, inputs, n_experts, reverse=True))
            stored = sum(p.numel() for n, p in pruned.named_parameters() if not n.startswith("embedding_ctc"))
            assert stored == model.parameter_counts(n_experts)["total"]


def test_the_extra_decoders_of_3m_hear_the_middle_of_the_encoder_and_are_trained() -> None:
    model = small(
        encoder_layers=6,
        extra_decoders=2,
        moe=MoESettings(balance="sparsity", embedding_layers=1, experts=[4], top_k=1),
    )
    model.train()
    x, lengths = features(70, 41)
    inputs, targets = torch.randint(4, V, (2, 6)), torch.randint(4, V, (2, 6))
    outputs = model(x, lengths, inputs, torch.tensor([6, 4]), 4)
    assert len(outputs.extra_logits) == 2
    found = losses(
        outputs, torch.randint(4, V, (2, 3)), torch.tensor([3, 2]), targets, config.LossSettings(), model.settings.moe
    )
    assert found.balance is not None
    (found.objective_B.sum() + found.balance).backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(
        found.parts["attention"] + found.parts["extra_attention"],
        sum(attention_loss(logits, targets, 0.1) for logits in (outputs.logits_BLV, *outputs.extra_logits)),
    )


def test_3ms_embedding_network_learns_from_its_own_loss_alone() -> None:
    model = small(moe=MoESettings(balance="sparsity", embedding_layers=1, experts=[4], top_k=1))
    x, lengths = features(70, 41)
    outputs = model(x, lengths, torch.randint(4, V, (2, 6)), torch.tensor([6, 4]), 4)
    routers = torch.stack([layer.routers[0].weight for layer in model.moe_layers()])
    assert routers.shape[-1] == 2 * model.settings.d_model, "the routers see it"
    (outputs.ctc_logits_BSV.sum() + outputs.logits_BLV.sum()).backward()
    assert all(p.grad is None for p in model.embedding_network.parameters())
    outputs.embedding_ctc_logits_BSV.sum().backward()
    assert all(p.grad is not None for p in model.embedding_network.parameters())


def test_the_loss_is_the_papers() -> None:
    model = small()
    x, lengths = features(70, 41)
    inputs = torch.randint(4, V, (2, 6))
    targets = torch.tensor([[5, 6, 7, -1, 8, 9], [-1, 5, 5, -1, -1, -1]])
    ctc, ctc_lengths = torch.tensor([[4, 5, 5], [6, 0, 0]]), torch.tensor([3, 1])
    outputs = model(x, lengths, inputs, torch.tensor([6, 3]), 3)
    found = losses(outputs, ctc, ctc_lengths, targets, config.LossSettings(), model.settings.moe)
    log_probs = outputs.ctc_logits_BSV.log_softmax(-1)
    for row in range(2):
        wanted_ctc = F.ctc_loss(
            log_probs[row, : outputs.encoded_lengths_B[row]], ctc[row, : ctc_lengths[row]],
            outputs.encoded_lengths_B[row], ctc_lengths[row], reduction="sum",
        )  # fmt: skip
        known = targets[row] >= 0
        p = outputs.logits_BLV[row, known].log_softmax(-1)
        wanted_attention = -(0.9 * p.gather(1, targets[row, known, None])[:, 0] + 0.1 * p.mean(-1)).sum()
        torch.testing.assert_close(found.objective_B[row], 0.3 * wanted_ctc + 0.7 * wanted_attention)
    assert found.tokens == 7


def test_a_group_the_model_lacks_is_a_clear_mistake() -> None:
    with pytest.raises(UserError, match="group 5 is not in this model: it has 3, 7, 15"):
        small().encode(*features(20), 5)


@pytest.mark.parametrize(
    ("preset", "n_experts", "millions", "tolerance"),
    [
        # TouchASP, Table 5 and section 4.2; width, depth and d_ff are inferred, so the three counts are the check
        ("paper-225m-dense", 0, 225, 0.02),
        ("paper-1b", 3, 335, 0.02),
        ("paper-1b", 15, 1000, 0.02),
        ("deepseek-350m", 3, 335, 0.02),
        ("deepseek-1b", 15, 1000, 0.02),
        ("deepseek-1b-s2", 30, 1000, 0.02),
        ("deepseek-1b-s4", 60, 1000, 0.02),
        ("moe-1b", 8, 1000, 0.02),
    ],
)
def test_parameter_counts_are_the_papers(preset: str, n_experts: int, millions: float, tolerance: float) -> None:
    settings = config.load(preset, [])
    with torch.device("meta"):
        model = SpeechModel(settings.model, 6000)
    assert model.parameter_counts(n_experts)["total"] / 1e6 == pytest.approx(millions, rel=tolerance)


@pytest.mark.parametrize(
    ("preset", "changes", "millions"),
    [
        ("3m-16e", [], 500),
        ("3m-32e", [], 775),
        ("3m-64e", [], 1370),
        ("3m-16e", ["model.extra_decoders=0"], 425),  # Table 3's Conformer-MoE (16e)
        ("3m-16e", ["model.extra_decoders=0", "model.moe.ffn=none"], 120),
    ],
)
def test_parameter_counts_of_3m(preset: str, changes: list[str], millions: float) -> None:
    """All that is trained: decoders of two layers in either direction behind the encoder and twice inside it."""
    settings = config.load(preset, changes)
    with torch.device("meta"):
        model = SpeechModel(settings.model, 6000)
    tolerance = 0.04 if "model.moe.ffn=none" not in changes else 0.08
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=tolerance)


def test_experts_have_a_drop_out_of_their_own() -> None:
    for moe, share in ((MoESettings(), 0.1), (MoESettings(dropout=0.0), 0.0), (MoESettings(dropout=0.2), 0.2)):
        model = small(dropout=0.1, moe=moe)
        assert {layer.dropout_rate for layer in model.moe_layers()} == {share}
        assert model.encoder.blocks[0].dropout.p == 0.1


def test_content_is_turned_and_all_else_stays() -> None:
    ids = torch.tensor([[2, 4, 9, 5, 6, 7, 3, 3], [2, 4, 9, 5, 3, 3, 3, 3], [2, 4, 9, 3, 3, 3, 3, 3]])
    content = torch.tensor([[3, 6], [3, 4], [3, 3]])
    found = turned(ids, content)
    assert found.tolist() == [[2, 4, 9, 7, 6, 5, 3, 3], ids[1].tolist(), ids[2].tolist()]
    assert torch.equal(turned(found, content), ids)


def test_a_right_to_left_decoder_reads_from_the_end_and_leaves_the_rest_as_it_was() -> None:
    one, both = small(extra_decoders=1), small(extra_decoders=1, reverse_layers=1)
    state = both.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())
    x, lengths = features(61, 90)
    inputs, targets = torch.randint(4, V, (2, 7)), torch.randint(4, V, (2, 7))
    content = torch.tensor([[1, 6], [1, 3]])
    input_lengths = torch.tensor([7, 4])
    outputs = both.train()(x, lengths, inputs, input_lengths, 7, turned(inputs, content + 1))
    ctc = torch.randint(4, V, (2, 3)), torch.tensor([3, 2])
    chosen = config.LossSettings(reverse_weight=0.25)
    found = losses(outputs, *ctc, targets, chosen, both.settings.moe, reverse_targets_BL=turned(targets, content))
    parts = found.parts
    mixed = 0.75 * (parts["attention"] + parts["extra_attention"])
    mixed = mixed + 0.25 * (parts["reverse_attention"] + parts["extra_reverse_attention"])
    torch.testing.assert_close(found.objective_B, 0.3 * parts["ctc"] + 0.7 * mixed)
    found.objective_B.sum().backward()
    used = {name for name, _ in both.active_parameters(7)}
    assert all((p.grad is not None) == (name in used) for name, p in both.named_parameters())
    # A clip alone equals a clip in a batch, and a token sees none that stand behind it: those before it in the text
    both.eval()
    encoded, encoded_lengths = both.encode(x, lengths, 7)
    backwards = both.decode(encoded, encoded_lengths, inputs, 7, reverse=True)
    assert not torch.allclose(backwards, both.decode(encoded, encoded_lengths, inputs, 7))
    alone, alone_length = both.encode(x[:1, :61], lengths[:1], 7)
    answer = both.decode(alone, alone_length, inputs[:1, :4], 7, reverse=True)
    torch.testing.assert_close(answer[0], backwards[0, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"moe": MoESettings(experts=[3], dispatch="sorted")},
        {"moe": MoESettings(experts=[8], top_k=2, shared=0, dispatch="sorted"), "reverse_layers": 1},
        {"moe": MoESettings(experts=[4], top_k=1, ffn="second", embedding_layers=1, dispatch="sorted"), "causal": True},
        {"moe": MoESettings(ffn="none")},
    ],
)
def test_operations_are_those_that_the_model_itself_takes(changes: dict[str, object]) -> None:
    model = small(**changes)
    n_experts = model.sizes[-1]
    # The fused attention of a CPU is one that the counter does not know
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoded, _ = model.encode(torch.zeros(1, 101, 80), torch.tensor([101]), n_experts)
        model.ctc_logits(encoded)
    routed = [layer for layer in model.moe_layers() if layer.name.startswith("encoder")]
    gates = sum(2 * 24 * n_experts * 32 for _ in routed)  # of 24 frames: gated biases are a product here, too
    assert flops(model.settings, V, n_experts, 101) == counter.get_total_flops() - gates


def test_operations_that_experts_add_are_those_of_3m() -> None:
    """Table 3: 12.3 B less 8.3 B for a Conformer without experts, an embedding network and routers."""
    with_experts = flops(config.load("3m-16e", []).model, 6000, 16)
    dense = flops(config.load("3m-16e", ["model.moe.ffn=none"]).model, 6000, 0)
    assert (with_experts - dense) / 1e9 == pytest.approx(4.0, rel=0.05)


def test_more_experts_add_what_3m_says() -> None:
    sizes = []
    for preset in ("3m-16e", "3m-32e", "3m-64e"):
        settings = config.load(preset, [])
        with torch.device("meta"):
            model = SpeechModel(settings.model, 6000)
        sizes.append(sum(p.numel() for p in model.parameters()) / 1e6)
    assert sizes[1] - sizes[0] == pytest.approx(275, rel=0.12)
    assert sizes[2] - sizes[1] == pytest.approx(595, rel=0.05)


def test_every_preset_loads() -> None:
    assert {"tiny", "small", "paper-1b", "paper-225m-dense", "moe-1b", "deepseek-350m", "deepseek-1b", "3m-16e"} <= set(
        config.presets()
    )
    for preset in config.presets():
        config.load(preset, [])


def test_tokens_nobody_knows_to_be_absent_learn_nothing_and_the_others_as_if_there_were_no_such_tokens() -> None:
    model = small()
    x, lengths = features(70, 41)
    inputs = torch.randint(4, V - 2, (2, 6))
    targets = torch.tensor([[5, 6, 7, -1, 8, 3], [-1, 5, 5, 3, -1, -1]])
    ctc, ctc_lengths = torch.tensor([[4, 5, 0], [6, 5, 5]]), torch.tensor([2, 3])
    open_BV = torch.zeros(2, V, dtype=torch.bool)
    open_BV[0, V - 2 :] = True  # the first clip's events are unknown, the second's are known
    outputs = model(x, lengths, inputs, torch.tensor([6, 3]), 3)
    outputs.logits_BLV.retain_grad()
    outputs.ctc_logits_BSV.retain_grad()
    with_open = losses(outputs, ctc, ctc_lengths, targets, config.LossSettings(), model.settings.moe, open_BV)
    with_open.objective_B.sum().backward()
    for logits in (outputs.logits_BLV, outputs.ctc_logits_BSV):
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert not logits.grad[0, :, V - 2 :].any()
        assert logits.grad[1, 1, V - 2 :].all()
    fewer = replace(
        outputs, logits_BLV=outputs.logits_BLV[..., : V - 2], ctc_logits_BSV=outputs.ctc_logits_BSV[..., : V - 2]
    )
    smaller = losses(fewer, ctc, ctc_lengths, targets, config.LossSettings(), model.settings.moe)
    plain = losses(outputs, ctc, ctc_lengths, targets, config.LossSettings(), model.settings.moe)
    torch.testing.assert_close(with_open.objective_B[0], smaller.objective_B[0])
    torch.testing.assert_close(with_open.objective_B[1], plain.objective_B[1])
