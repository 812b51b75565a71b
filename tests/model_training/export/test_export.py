"""An exported model answers as the model it came from, at every size, in every format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from model_training.decoding.onnx_scorer import ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.recognize import Recognizer
from model_training.decoding.scorer import ModelScorer
from model_training.evaluation.evaluation import Evaluation, Result, to_json
from model_training.evaluation.metrics import ErrorRate, Scores
from model_training.export import sherpa
from model_training.export.export import Exported, add_arguments, export, load, main
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE
from tests.support.corpus import full_model, make_checkpoint, one_thread

LENGTHS = [(7,), (123,), (64, 31, 90, 7)]
"""Feature frames of the clips of batches, none of them the shape that was traced."""

VARIANTS = {
    "paper": (["model.moe.experts=[3,7,15]"], (3, 7, 15)),
    "dense": (["model.moe.ffn=none"], (0,)),
    "no shared, scores of all": (
        ["model.moe.shared=0", "model.moe.experts=[4,8]", "model.moe.top_k=2", "model.moe.norm_topk=false"],
        (4, 8),
    ),
    "selection bias, causal": (
        ["model.moe.experts=[7]", "model.moe.top_k=2", "model.moe.balance=bias", "model.causal=true"],
        (7,),
    ),
    "3m": (
        [
            "model.moe.ffn=second",
            "model.moe.shared=0",
            "model.moe.experts=[4]",
            "model.moe.top_k=1",
            "model.moe.norm_topk=false",
            "model.moe.embedding_layers=1",
            "model.extra_decoders=1",
            "model.reverse_layers=2",
        ],
        (4,),
    ),
    "two shared, decoder sees no embedding": (
        ["model.moe.shared=2", "model.moe.experts=[6]", "model.moe.embedding_layers=1"],
        (6,),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the groups 3, 7 and 15."""
    return make_checkpoint(tmp_path_factory.mktemp("run"), *VARIANTS["paper"][0])


@pytest.fixture(scope="module")
def onnx(paper: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Exported]:
    """All its sizes as ONNX."""
    out = tmp_path_factory.mktemp("onnx")
    return {done.n_experts: done for done in export(paper, "all", "onnx", out, measure=False)}


def features(lengths: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features_BF80 = torch.randn(len(lengths), max(lengths), 80, generator=generator)
    for row, length in enumerate(lengths):
        features_BF80[row, length:] = 0
    return features_BF80, torch.tensor(lengths)


def nodes(folder: Path) -> list[Any]:
    """Of the encoder's graph."""
    import onnx as package

    return list(package.load(str(folder / "encoder.onnx")).graph.node)


def assert_same_scores(folder: Path, model: SpeechModel, n_experts: int, tolerance: float) -> None:
    """CTC, whole sequences and step by step, of several batches."""
    exported = OnnxModel(ExportFolder.open(folder), threads=1)
    random = np.random.default_rng(0)
    for lengths in LENGTHS:
        batch = features(lengths)
        want = ModelScorer(model, *batch, n_experts)
        got = OnnxScorer(exported, batch[0].numpy(), batch[1].numpy())
        assert got.frames == want.frames
        for clip in range(len(lengths)):
            np.testing.assert_allclose(got.ctc(clip), want.ctc(clip), rtol=0, atol=tolerance)
        clips_H = np.sort(random.integers(0, len(lengths), 5))
        ids_HL = random.integers(2, model.vocabulary, (5, 6))
        np.testing.assert_allclose(got.score(ids_HL, clips_H), want.score(ids_HL, clips_H), rtol=0, atol=tolerance)
        assert got.has_reverse == want.has_reverse == bool(model.settings.reverse_layers)
        if got.has_reverse:
            backwards = got.score_reverse(ids_HL, clips_H), want.score_reverse(ids_HL, clips_H)
            np.testing.assert_allclose(*backwards, rtol=0, atol=tolerance)
            assert not np.allclose(backwards[0], got.score(ids_HL, clips_H))
        parents_H = None
        for length in (2, 3, 4, 5):
            args = (ids_HL[:, :length], clips_H, parents_H)
            np.testing.assert_allclose(got.next(*args), want.next(*args), rtol=0, atol=tolerance)
            if length == 3:  # a beam that branches, drops rows and changes the number of them
                parents_H = np.array([0, 0, 2, 3, 3, 4])
                ids_HL, clips_H = ids_HL[parents_H], clips_H[parents_H]
            else:
                parents_H = np.arange(len(ids_HL))


@pytest.mark.parametrize("n_experts", [3, 7, 15])
def test_a_pruned_export_is_the_full_model_at_that_group_to_the_bit(
    paper: Path, tmp_path: Path, n_experts: int
) -> None:
    (done,) = export(paper, n_experts, "safetensors", tmp_path / "out", measure=False)
    pruned, folder = load(done.folder)
    full = full_model(paper)
    batch_BF80, lengths_B = features((64, 31, 90))
    inputs_BL = torch.randint(2, full.vocabulary, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want_BSD, want_lengths_B = full.encode(batch_BF80, lengths_B, n_experts)
        got_BSD, got_lengths_B = pruned.encode(batch_BF80, lengths_B, n_experts)
        assert torch.equal(got_lengths_B, want_lengths_B)
        assert torch.equal(pruned.ctc_logits(got_BSD), full.ctc_logits(want_BSD))
        want_BLV = full.decode(want_BSD, want_lengths_B, inputs_BL, n_experts)
        assert torch.equal(pruned.decode(got_BSD, got_lengths_B, inputs_BL, n_experts), want_BLV)
    held = sum(parameter.numel() for parameter in pruned.parameters())
    assert held == full.parameter_counts(n_experts)["total"] == done.parameters
    assert folder.config["group"] == n_experts


@pytest.mark.parametrize("n_experts", [3, 7, 15])
def test_onnx_is_torch_within_1e_4(paper: Path, onnx: dict[int, Exported], n_experts: int) -> None:
    assert_same_scores(onnx[n_experts].folder, full_model(paper), n_experts, 1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "paper"])
def test_onnx_holds_every_form_of_the_model(tmp_path: Path, name: str) -> None:
    settings, groups = VARIANTS[name]
    path = make_checkpoint(tmp_path / "run", *settings)
    for done in export(path, "all", "onnx", tmp_path / "out", measure=False):
        assert_same_scores(done.folder, full_model(path), done.n_experts, 1e-4)
    assert sorted(int(re.sub(r"\D", "", d.name) or 0) for d in (tmp_path / "out").iterdir()) == sorted(groups)


def test_the_smallest_group_is_dense_and_larger_ones_are_routed_without_masks(onnx: dict[int, Exported]) -> None:
    def operators(n_experts: int) -> list[str]:
        return [node.op_type for node in nodes(onnx[n_experts].folder)]

    blocks, layers = 2, 4  # every block has two elastic layers, and one gated convolution, which is a Split of its own
    assert not {"TopK", "NonZero"} & set(operators(3))
    assert operators(3).count("Split") == blocks
    for n_experts in (7, 15):
        found = operators(n_experts)
        assert found.count("Split") == blocks + layers
        assert found.count("TopK") == 2 * layers  # the choice, and one sort of the pairs
        assert found.count("Gemm") == layers * 2 * (n_experts + 1)  # every expert and the shared one, no more
        assert not {"NonZero", "Loop", "If", "Compress"} & set(found)


def test_int8_takes_all_large_products_but_leaves_the_routers_exact(paper: Path, tmp_path: Path) -> None:
    (done,) = export(paper, 7, "onnx-int8", tmp_path / "out", measure=False)
    exact = [node.name for node in nodes(done.folder) if node.op_type in ("MatMul", "Gemm")]
    assert sum("/router/" in name for name in exact) == 4  # a layer each
    assert not [
        name for name in exact if "_ffn" in name and "/router/" not in name and not name.endswith("_ffn/MatMul")
    ]


def test_int8_is_small_and_agrees_on_most_tokens(paper: Path, onnx: dict[int, Exported], tmp_path: Path) -> None:
    for n_experts in (3, 15):
        (done,) = export(paper, n_experts, "onnx-int8", tmp_path / f"{n_experts}", measure=False)
        # Random weights make near ties; a quarter of a frame's tokens may tip over, no more.
        exact = OnnxModel(ExportFolder.open(onnx[n_experts].folder), threads=1)
        small = OnnxModel(ExportFolder.open(done.folder), threads=1)
        agreed = total = 0
        for seed, lengths in enumerate([(7,), (400,), (300, 211)]):
            batch_BF80, lengths_B = (part.numpy() for part in features(lengths, seed))
            want, got = OnnxScorer(exact, batch_BF80, lengths_B), OnnxScorer(small, batch_BF80, lengths_B)
            for clip in range(len(lengths)):
                assert np.isfinite(got.ctc(clip)).all()
                agreed += int((got.ctc(clip).argmax(-1) == want.ctc(clip).argmax(-1)).sum())
                total += len(want.ctc(clip))
            ids_HL = np.random.default_rng(seed).integers(2, 20, (1, 8))
            difference = got.score(ids_HL, np.zeros(1, np.int64)) - want.score(ids_HL, np.zeros(1, np.int64))
            assert np.abs(difference).mean() < 0.1
        assert agreed / total > 0.75


def test_int8_halves_a_model_whose_weights_outweigh_its_graph(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", "model.d_model=64", "model.d_ff=512", "model.moe.experts=[3]")
    (exact,) = export(path, 3, "onnx", tmp_path / "exact", measure=False)
    (small,) = export(path, 3, "onnx-int8", tmp_path / "small", measure=False)
    assert small.bytes < exact.bytes / 2


def test_a_folder_is_whole_and_the_same_every_time(paper: Path, onnx: dict[int, Exported], tmp_path: Path) -> None:
    folder = onnx[7].folder
    assert {file.name for file in folder.iterdir()} == {
        "encoder.onnx",
        "keys.onnx",
        "decoder.onnx",
        "tokenizer.json",
        "cmvn.json",
        "config.json",
        "README.md",
    }
    (again,) = export(paper, 7, "onnx", tmp_path / "again", measure=False)
    for file in folder.iterdir():
        assert (again.folder / file.name).read_bytes() == file.read_bytes(), file.name
        assert str(paper.parent).encode() not in file.read_bytes(), f"{file.name} names a path of this machine"
    assert again.bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_weights_too_large_for_one_file_lie_beside_it(paper: Path, tmp_path: Path) -> None:
    for format in ("onnx", "onnx-int8"):
        (done,) = export(paper, 7, format, tmp_path / format, measure=False, one_file_bytes=50_000)
        assert (done.folder / "encoder.onnx.data").stat().st_size > 50_000
        tolerance = 1e-4 if format == "onnx" else 1.0
        assert_same_scores(done.folder, full_model(paper), 7, tolerance)


def test_the_moving_average_is_exported_when_asked_for(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", "model.moe.experts=[3]", ema=True)
    (averaged,) = export(path, 3, "safetensors", tmp_path / "a", measure=False, ema=True)
    (plain,) = export(path, 3, "safetensors", tmp_path / "b", measure=False)
    want = full_model(path).ctc.weight
    assert torch.equal(load(plain.folder)[0].ctc.weight, want)
    assert torch.equal(load(averaged.folder)[0].ctc.weight, want * 0.5)


def test_the_card_tells_size_speed_and_error_rates(paper: Path, tmp_path: Path) -> None:
    scores = {n_experts: Scores(characters=ErrorRate(n_experts, 0, 0, 100)) for n_experts in (3, 7, 15)}
    results = tuple(Result(set="dev", n_experts=g, method="ctc_greedy", scores=s) for g, s in scores.items())
    (tmp_path / "eval.json").write_bytes(to_json(Evaluation(model="m", results=results)))
    (done,) = export(paper, 3, "onnx", tmp_path / "out", evaluation=tmp_path / "eval.json")
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    counts = full_model(paper).parameter_counts(3)
    assert f"{counts['total']:,}" in card
    assert f"{counts['active']:,}" in card
    assert "| dev | ctc_greedy | 3.00 | 7.00 | 15.00 |" in card
    assert done.rtf is not None
    assert 0 < done.rtf < 1
    assert f"real-time factor {done.rtf:.4f}" in card
    size = (done.folder / "encoder.onnx").stat().st_size
    assert f"| encoder.onnx | {size:,} bytes |" in card
    (result,) = front_matter(done.folder)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "dev"
    assert result["metrics"] == [{"type": "cer", "name": "CER, ctc_greedy", "value": 3.0}]


def test_mistakes_are_one_clear_line(paper: Path, onnx: dict[int, Exported], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"group 5 is not in this model: choose from 3, 7, 15"):
        export(paper, 5, "onnx", tmp_path / "x")
    with pytest.raises(UserError, match="no format 'tflite'"):
        export(paper, 3, "tflite", tmp_path / "x")
    with pytest.raises(UserError, match="no checkpoint in"):
        export(tmp_path / "nowhere", 3, "onnx", tmp_path / "x")
    with pytest.raises(UserError, match="cannot read the evaluation"):
        export(paper, 3, "onnx", tmp_path / "x", evaluation=tmp_path / "none.json")
    with pytest.raises(UserError, match="holds onnx: export it with --format safetensors"):
        load(onnx[3].folder)
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "one.jpg").write_text("")
    with pytest.raises(UserError, match="holds something that is no export"):
        export(paper, 3, "onnx", precious)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos"]


def test_a_corrupt_checkpoint_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", "model.moe.experts=[3]")
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="differs from its checksum"):
        export(path, 3, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_and_replaces(paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    command = [
        str(paper.parent),
        "--group",
        "3",
        "--format",
        "safetensors",
        "--out",
        str(tmp_path / "out"),
        "--no-speed",
    ]
    for _ in range(2):
        assert main(parser.parse_args(command)) == 0
    assert f"{tmp_path / 'out'}: " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["group"] == 3
    with pytest.raises(UserError, match="--group three"):
        main(parser.parse_args([str(paper), "--group", "three", "--out", str(tmp_path / "x")]))


def heard_by_sherpa(folder: Path, pcm: np.ndarray) -> Any:
    import sherpa_onnx

    files = {"model": str(folder / "model.onnx"), "tokens": str(folder / "tokens.txt")}
    recogniser = sherpa_onnx.OfflineRecognizer.from_fire_red_asr_ctc(**files)
    stream = recogniser.create_stream()
    stream.accept_waveform(SAMPLE_RATE, pcm.astype(np.float32) / 32768)
    recogniser.decode_stream(stream)
    return stream.result


def test_sherpa_onnx_writes_what_we_write(paper: Path, onnx: dict[int, Exported], tmp_path: Path) -> None:
    """It computes its own features, from nothing but the metadata of the graph."""
    (done,) = export(paper, 7, "sherpa", tmp_path / "sherpa", measure=False)
    random = np.random.default_rng(0)
    swell = np.repeat(random.uniform(10, 4000, 30), 1600)
    pcm = (random.standard_normal(3 * SAMPLE_RATE) * swell).clip(-32768, 32767).astype(np.int16)
    got = heard_by_sherpa(done.folder, pcm)
    recognizer = Recognizer(onnx[7].folder, threads=1)
    (want,) = recognizer.recognize([pcm], method="ctc_greedy")
    spelt = [recognizer.tokenizer.tokens[token].replace("▁", " ") for token in want.ids]
    assert len(spelt) > 5
    assert got.tokens == spelt
    assert got.text.replace(" ", "") == want.text.replace(" ", "")


def test_a_unit_that_sherpa_onnx_would_leave_out_is_spelt_otherwise() -> None:
    tokenizer = Tokenizer.train(["SIL SIL SIL"], Scheme(), bpe_size=40)
    tokenizer = Tokenizer(tokenizer.scheme, "好", ["▁", "S", "I", "L"], [("S", "I"), ("SI", "L")])
    lines = sherpa.tokens(tokenizer).splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == [str(number) for number in range(len(tokenizer))]
    assert "SIL" not in {line.rpartition(" ")[0] for line in lines}


def front_matter(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text("utf-8")
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.mark.parametrize(("format", "library"), [("sherpa-int8", "sherpa-onnx"), ("safetensors", "pytorch")])
def test_a_card_begins_with_what_hubs_read(paper: Path, tmp_path: Path, format: str, library: str) -> None:
    (done,) = export(paper, 7, format, tmp_path / "out", measure=False)
    matter = front_matter(done.folder)
    assert matter["library_name"] == library
    assert matter["pipeline_tag"] == "automatic-speech-recognition"
    assert "model-index" not in matter  # nothing was measured


def test_the_command_card_tells_of_a_checkpoint_and_of_an_exported_folder(
    paper: Path, onnx: dict[int, Exported], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard

    from model_training.__main__ import main

    scores = {n_experts: Scores(characters=ErrorRate(n_experts, 0, 0, 100)) for n_experts in (3, 7, 15)}
    results = tuple(Result(set="dev", n_experts=g, method="ctc_greedy", scores=s) for g, s in scores.items())
    (tmp_path / "eval.json").write_bytes(to_json(Evaluation(model="m", results=results)))
    more = ["--evaluation", str(tmp_path / "eval.json"), "--license", "Apache-2.0", "--no-speed"]
    for folder, sizes in ((paper, (3, 7, 15)), (onnx[3].folder, (3,))):
        out = tmp_path / f"{folder.name}.md"
        assert main(["card", str(folder), *more, "--out", str(out)]) == 0
        card = ModelCard.load(out)
        assert card.data.license == "apache-2.0"
        rates = [each.metric_value for each in card.data.eval_results]
        assert rates == [float(size) for size in sizes]
        for size in sizes:
            assert f"{full_model(paper).parameter_counts(size)['total']:,}" in card.text
    out.write_text("# Mine\n")
    assert main(["card", str(onnx[3].folder), *more, "--out", str(out)]) == 2
    assert "was changed since it was written" in capsys.readouterr().err
    assert out.read_text() == "# Mine\n"
