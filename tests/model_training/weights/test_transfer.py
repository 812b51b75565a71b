"""Weights of one model in another: the same answers where nothing changed, and the growth that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model_training import config
from model_training.config import ModelSettings, MoESettings
from model_training.export.export import export
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.weights.embedding import give_embedding
from model_training.weights.origin import Origin, open_origin
from model_training.weights.transfer import Report, transfer
from operators.errors import UserError
from tests.support.corpus import SMALL, full_model, make_checkpoint

SIZES = {
    "d_model": 32,
    "heads": 4,
    "d_ff": 64,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "kernel": 5,
    "dropout": 0.0,
}


def settings(**moe: object) -> ModelSettings:
    return ModelSettings(**SIZES, moe=MoESettings(**moe))  # type: ignore[arg-type]


def built(chosen: ModelSettings, vocabulary: int, seed: int = 0) -> SpeechModel:
    torch.manual_seed(seed)
    model = SpeechModel(chosen, vocabulary).eval()
    for name, parameter in model.named_parameters():
        if "bias_HW" in name or "norm" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def tokenizer(text: str = "HELLO WORLD 你好世界", **scheme: tuple[str, ...]) -> Tokenizer:
    return Tokenizer.train([text], Scheme(**({"events": ("dog", "rain")} | scheme)), bpe_size=20)  # type: ignore[arg-type]


def origin(model: SpeechModel, tokens: Tokenizer) -> Origin:
    sizes = {key: getattr(model.settings, key) for key in ("d_model", "heads", "encoder_layers", "decoder_layers")}
    return Origin(name="X", place="X", tensors=model.state_dict(), sizes=sizes, tokens=tokens.tokens)


def take(model: SpeechModel, tokens: Tokenizer, source: Origin, noise: float = 0.01) -> Report:
    return transfer(model, tokens.tokens, source, noise=noise, seed=0)


def answers(model: SpeechModel, n_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """CTC's and the decoder's logits of two clips, their padding cut off."""
    features = torch.randn(2, 71, 80, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        encoded, lengths = model.encode(features, torch.tensor([71, 55]), n_experts)
        inputs = torch.tensor([[2, 4, 30, 31], [2, 4, 32, 33]])
        ctc = model.ctc_logits(encoded)
        ctc[1, lengths[1] :] = 0
        return ctc, model.decode(encoded, lengths, inputs, n_experts)


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...], atol: float = 0.0) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_the_same_architecture_gives_the_same_answers_at_every_size() -> None:
    tokens = tokenizer()
    there, here = built(settings(balance="bias"), len(tokens)), built(settings(balance="bias"), len(tokens), seed=1)
    torch.nn.init.normal_(there.moe_layers()[0].selection_bias(1))
    report = take(here, tokens, origin(there, tokens))
    for n_experts in there.sizes:
        same(answers(there, n_experts), answers(here, n_experts))
    assert (report.grown, report.fresh, report.left) == ([], [], [])
    assert sorted(report.taken) == sorted(there.state_dict())
    assert report.parameters == sum(tensor.numel() for tensor in there.state_dict().values())


def test_a_vocabulary_grows_by_text_and_new_rows_start_from_the_mean_of_their_kind() -> None:
    old = tokenizer()
    new = tokenizer("HELLO WORLD 你好世间", languages=("zh", "en", "wuu", "yue"), events=("dog", "kettle", "rain"))
    there, here = built(settings(), len(old)), built(settings(), len(new), seed=1)
    report = take(here, new, origin(there, old))
    where = {token: place for place, token in enumerate(old.tokens)}
    for ours, theirs in (
        (here.ctc.weight, there.ctc.weight),
        (here.ctc.bias, there.ctc.bias),
        (here.decoder.embedding.weight, there.decoder.embedding.weight),
        (here.decoder.out.weight, there.decoder.out.weight),
    ):
        kinds = {"<lang:wuu>": "<lang:", "<event:kettle>": "<event:"}
        for place, token in enumerate(new.tokens):
            if token in where:
                assert torch.equal(ours[place], theirs[where[token]]), token
            elif token in kinds:
                like = [number for name, number in where.items() if name.startswith(kinds[token])]
                torch.testing.assert_close(ours[place], theirs[like].mean(0))
            else:
                assert token == "间"
                text = [number for name, number in where.items() if not name.startswith("<")]
                torch.testing.assert_close(ours[place], theirs[text].mean(0))
    assert report.grown == ["3 tokens: <lang:wuu> <event:kettle> 间"]
    (left,) = report.left
    assert {"界", "<lang:sichuan>", "<lang:minnan>"} <= set(left.split())
    for n_experts in there.sizes:
        (before, _), (after, _) = answers(there, n_experts), answers(here, n_experts)
        kept = [place for place, token in enumerate(new.tokens) if token in where]
        torch.testing.assert_close(after[..., kept], before[..., [where[new.tokens[place]] for place in kept]])


@pytest.mark.parametrize(
    ("shared", "experts", "width"),
    [(1, [3, 7, 15], 32), (0, [4], 64), (2, [3], 64), (1, [3], 50)],
    ids=[
        "half of it shared, as in the paper",
        "whole blocks, none shared",
        "whole blocks",
        "width that does not divide",
    ],
)
def test_a_dense_block_in_experts_answers_what_it_did(shared: int, experts: list[int], width: int) -> None:
    tokens = tokenizer()
    there = built(settings(ffn="none"), len(tokens))
    moe = {"shared": shared, "experts": experts, "expert_width": width, "top_k": min(3, experts[0])}
    here = built(settings(**moe), len(tokens), seed=1)
    report = take(here, tokens, origin(there, tokens), noise=0.0)
    for n_experts in here.sizes:
        same(answers(there, 0), answers(here, n_experts), atol=1e-4)
    assert len(report.grown) == 5, "two blocks of two layers, one of the decoder"
    assert all("router" in name for name in report.fresh)


def test_copied_experts_differ_by_a_little_noise_alike_on_every_worker() -> None:
    tokens = tokenizer()
    there = built(settings(ffn="none"), len(tokens))
    one, other = (built(settings(), len(tokens), seed=3) for _ in range(2))
    for model in (one, other):
        take(model, tokens, origin(there, tokens))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    stack = one.moe_layers()[0].tiers[2].w_in_EHD
    apart = (stack[0] - stack[1]).abs().mean() / stack.abs().mean()
    assert 0.002 < float(apart) < 0.05
    for n_experts in one.sizes:
        same(answers(there, 0), answers(one, n_experts), atol=0.3)


def test_narrower_experts_hold_the_block_between_them() -> None:
    """With (S + 1) H < F no frame hears all of the block; over all experts alike it does."""
    tokens = tokenizer()
    there = built(settings(ffn="none"), len(tokens))
    here = built(settings(shared=2, experts=[6], top_k=6, expert_width=16), len(tokens), seed=1)
    for layer in here.moe_layers():
        torch.nn.init.zeros_(layer.routers[0].weight)
    take(here, tokens, origin(there, tokens), noise=0.0)
    same(answers(there, 0), answers(here, 6), atol=1e-4)


def test_groups_are_matched_by_their_number_of_experts() -> None:
    tokens = tokenizer()
    there = built(settings(experts=[3, 7], expert_width=16), len(tokens))
    here = built(settings(experts=[3, 5, 7, 9], expert_width=16), len(tokens), seed=1)
    report = take(here, tokens, origin(there, tokens), noise=0.0)
    for n_experts in (3, 7):
        same(answers(there, n_experts), answers(here, n_experts), atol=1e-5)
    ours, theirs = here.moe_layers()[0], there.moe_layers()[0]
    assert torch.equal(ours.routers[1].weight, theirs.routers[1].weight[:5])
    assert torch.equal(ours.tiers[3].w_in_EHD, theirs.tiers[0].w_in_EHD[:2])
    assert "encoder.0.first: 2 experts, copies of the first" in [
        words.replace("encoder.blocks.0.first_ffn", "encoder.0.first") for words in report.grown
    ]
    smaller = built(settings(experts=[3], expert_width=16), len(tokens), seed=1)
    report = take(smaller, tokens, origin(there, tokens))
    same(answers(there, 3), answers(smaller, 3))
    assert "encoder.blocks.0.first_ffn: 4 experts" in report.left


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"encoder_layers": 3}, ["model.encoder_layers is 2", "set model.encoder_layers=2"]),
        ({"decoder_layers": 2}, ["set model.decoder_layers=1"]),
        ({"d_model": 48}, ["set model.d_model=32"]),
        ({"moe": MoESettings(expert_width=24)}, ["encoder.blocks.0.first_ffn", "set model.moe.expert_width=32"]),
        ({"moe": MoESettings(shared=2, expert_width=32)}, ["set model.moe.shared=1"]),
        ({"moe": MoESettings(ffn="none")}, ["has experts", "model.moe.ffn"]),
    ],
)
def test_another_architecture_is_one_line_and_leaves_the_model_alone(here: dict[str, object], words: list[str]) -> None:
    tokens = tokenizer()
    model = built(replace(settings(), **here), len(tokens), seed=1)  # type: ignore[arg-type]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        take(model, tokens, origin(built(settings(), len(tokens)), tokens))
    assert len(str(caught.value).splitlines()) == 1
    assert all(word in str(caught.value) for word in ("train.init_from=X", *words))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["encoder.blocks.1.attention.query.weight", "encoder.blocks.0.first_ffn.tiers.1.b_in_EH"]
)
def test_a_missing_tensor_is_named(name: str) -> None:
    tokens = tokenizer()
    source = origin(built(settings(), len(tokens)), tokens)
    source = replace(source, tensors={key: one for key, one in source.tensors.items() if key != name})
    with pytest.raises(UserError, match="lacks .*" + name.rpartition("tiers.")[2].replace("1.", ".", 1)[-12:]):
        take(built(settings(), len(tokens)), tokens, source)


def test_weights_that_are_no_numbers_are_refused() -> None:
    tokens = tokenizer()
    there = built(settings(), len(tokens))
    there.ctc.bias.data[3] = torch.nan
    with pytest.raises(UserError, match=r"ctc\.bias holds numbers that are not finite"):
        take(built(settings(), len(tokens)), tokens, origin(there, tokens))


def test_parts_of_3m_may_begin_from_nothing() -> None:
    tokens = tokenizer()
    moe = {"ffn": "second", "shared": 0, "experts": [4], "top_k": 1, "expert_width": 64}
    there = built(settings(ffn="none"), len(tokens))
    chosen = replace(settings(**moe, embedding_layers=1), extra_decoders=1, reverse_layers=2)
    here = built(chosen, len(tokens), seed=1)
    report = take(here, tokens, origin(there, tokens))
    starts = {name.partition(".")[0] for name in report.fresh if "router" not in name}
    both = {"extra_decoders", "extra_reverse_decoders", "reverse_decoder"}
    assert starts == {*both, "embedding_network", "embedding_ctc"}


def test_a_right_to_left_decoder_is_taken_with_its_rows_or_left_or_refused_by_its_layers(tmp_path: Path) -> None:
    tokens, more = tokenizer(), tokenizer(events=("dog", "rain", "kettle"))
    path = make_checkpoint(tmp_path / "run", "model.reverse_layers=1")
    source = open_origin(str(path), config.load(None, SMALL).model)
    theirs = replace(source, tokens=None)
    chosen = config.load(None, [*SMALL, "model.reverse_layers=1"]).model
    vocabulary = len(source.tokens or ())
    here = built(chosen, vocabulary, seed=1)
    report = take(here, tokens, theirs)
    for name, tensor in here.reverse_decoder.state_dict().items():
        wanted = source.tensors[f"reverse_decoder.{name}"]
        assert torch.equal(tensor, wanted) != name.startswith(("embedding", "out")), name
    assert "reverse_decoder.embedding.weight" in report.fresh
    without = built(replace(chosen, reverse_layers=0), vocabulary, seed=1)
    assert any(name.startswith("reverse_decoder.") for name in take(without, tokens, theirs).left)
    with pytest.raises(UserError, match=r"set model\.reverse_layers=1"):
        take(built(replace(chosen, reverse_layers=2), vocabulary, seed=1), tokens, theirs)
    grown = built(replace(settings(), reverse_layers=1), len(more), seed=1)
    there = built(replace(settings(), reverse_layers=1), len(tokens))
    take(grown, more, origin(there, tokens))
    place = tokens.tokens.index("<event:rain>"), more.tokens.index("<event:rain>")
    assert torch.equal(there.reverse_decoder.out.weight[place[0]], grown.reverse_decoder.out.weight[place[1]])


def test_3ms_embedding_network_begins_from_a_dense_model(tmp_path: Path) -> None:
    tokens, more = tokenizer(), tokenizer(events=("dog", "rain", "kettle"))
    there = built(settings(ffn="none"), len(tokens))
    moe = {"ffn": "second", "shared": 0, "experts": [4], "top_k": 1, "expert_width": 64, "embedding_layers": 2}
    here = built(settings(**moe), len(more), seed=1)
    before = {name: tensor.clone() for name, tensor in here.state_dict().items()}
    source = replace(origin(there, tokens), sizes={"encoder_layers": 2, "decoder_layers": 1, "d_model": 32})
    report = give_embedding(here, more.tokens, source)
    assert report.lines()[0].startswith("embedding network begins from X: ")
    for name, tensor in here.state_dict().items():
        if name.startswith("embedding_network."):
            assert torch.equal(tensor, there.state_dict()[name.replace("embedding_network.", "encoder.")]), name
        elif not name.startswith("embedding_ctc."):
            assert torch.equal(tensor, before[name]), name
    place = tokens.tokens.index("<event:rain>"), more.tokens.index("<event:rain>")
    assert torch.equal(here.embedding_ctc.weight[place[1]], there.ctc.weight[place[0]])
    assert any(name.startswith("decoder.") for name in report.left)
    with pytest.raises(UserError, match=r"set model\.moe\.embedding_layers=3"):
        give_embedding(here, more.tokens, replace(source, sizes={"encoder_layers": 3}))
    with pytest.raises(UserError, match=r"give a dense model, model\.moe\.ffn=none"):
        give_embedding(here, more.tokens, origin(built(settings(), len(tokens)), tokens))
    with pytest.raises(UserError, match="no embedding network"):
        config.load(None, ["train.init_embedding_from=models/x"])


def test_a_checkpoint_and_an_export_are_read_and_give_the_same(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run")
    chosen = config.load(None, SMALL).model
    whole = full_model(path)
    tokens = Tokenizer.load(path)
    for place in (tmp_path / "run", path):
        here = SpeechModel(chosen, len(tokens)).eval()
        source = open_origin(str(place), chosen)
        take(here, tokens, source)
        same(answers(whole, 7), answers(here, 7))
    assert source.cmvn is not None
    (made,) = export(path, 7, "safetensors", tmp_path / "n7", measure=False)
    here = SpeechModel(chosen, len(tokens)).eval()
    report = take(here, tokens, open_origin(str(made.folder), chosen))
    same(answers(whole, 7), answers(here, 7))
    assert any("the router of 3 experts, from that of 7" in words for words in report.grown)


def test_half_precision_is_taken_as_float32(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run")
    source = open_origin(str(path), config.load(None, SMALL).model)
    tokens = Tokenizer.load(path)
    half = replace(source, tensors={name: tensor.bfloat16() for name, tensor in source.tensors.items()})
    here = SpeechModel(config.load(None, SMALL).model, len(tokens)).eval()
    take(here, tokens, half)
    assert here.ctc.weight.dtype == torch.float32
    same(answers(full_model(path), 3), answers(here, 3), atol=0.2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere", "no such file or folder"),
        (lambda folder: folder, "no weights in it"),
        (lambda folder: _run(folder, cut=True), "missing or differs"),
        (lambda folder: _run(folder, unfinished=True), "no checkpoint in"),
        (lambda folder: f"{_run(folder)}@best", "has an error rate on dev"),
        (lambda folder: f"{folder / 'gone'}@average", "has an error rate on dev"),
        (lambda folder: _file(folder / "a.safetensors", b"1234"), "is not whole"),
        (lambda folder: _file(folder / "final.pt", b"PK\x03\x04 and no more"), "cannot be read"),
        (lambda folder: _pickled(folder / "final.pt"), "more than tensors"),
        (lambda folder: _tensors(folder / "final.safetensors"), "no WeNet model"),
        (lambda folder: _file(folder / "config.json", b"{}").parent, "of transformers or CTranslate2"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, make: object, words: str) -> None:
    name = str(make(tmp_path))  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        open_origin(name, settings())
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def _run(folder: Path, *, cut: bool = False, unfinished: bool = False) -> Path:
    path = make_checkpoint(folder / "run")
    if cut:
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-9])
        return path
    if unfinished:
        path.rename(path.parent / ".step-00000007.123")
    return folder / "run"


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _pickled(path: Path) -> Path:
    torch.save({"model": Path("x")}, path)
    return path


def _tensors(path: Path) -> Path:
    save_file({"a": torch.zeros(2)}, path)
    return path
