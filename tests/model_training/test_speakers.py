"""The speaker head: what it learns from which labels, whose word counts, what exports and streams keep of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model_training import config
from model_training.__main__ import main
from model_training.config import ModelSettings, MoESettings, SpeakerHeadSettings
from model_training.data.index import Index
from model_training.data.speaker_labels import MOST_BALANCE, SpeakerLabels
from model_training.decoding.onnx_scorer import ExportFolder, OnnxModel, OnnxScorer
from model_training.decoding.recognize import Recognizer
from model_training.decoding.scorer import ModelScorer
from model_training.decoding.streaming import StreamingRecognizer, StreamSettings
from model_training.evaluation.sets import load_model
from model_training.export.export import export
from model_training.model.speech_model import SpeechModel
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from model_training.train import train
from operators.errors import UserError
from operators.filterbank import filterbank
from operators.index import write_index
from tests.model_training.test_train import SMALL, STILL
from tests.support.corpus import at, beeps, full_model, make_checkpoint, make_handoff, make_rows, noise, one_thread

HEAD = ["model.speaker_head.attributes=[gender,language]", "model.speaker_head.dropout=0", "loss.speaker_weight=30"]
QUICK = ["optimizer.learning_rate=0.01", "optimizer.schedule=constant", "optimizer.warmup_steps=5", "data.max_clips=24"]
SIZES = "model.moe.experts=[3,7]"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of its clips say whose they are."""
    folder = make_handoff(tmp_path_factory.mktemp("handoff"), train=48, dev=4)
    index = Index.open(str(folder / "train.arrow"))
    rows = [index.row(number) for number in range(len(index))]
    write_index(
        folder / "train.arrow", [at(row, gender=row.gender if n % 4 < 2 else None) for n, row in enumerate(rows)]
    )
    return folder


@pytest.fixture(scope="module")
def run(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "head"
    settings = config.load(
        None,
        [
            *SMALL,
            *STILL,
            *HEAD,
            *QUICK,
            SIZES,
            "data.labelled_weight=2",
            "train.max_steps=40",
            "train.checkpoint_steps=40",
        ],
    )
    train(str(handoff), out, settings)
    return out


def head_of(model: SpeechModel, pcm: np.ndarray, cmvn: object, n_experts: int) -> np.ndarray:
    features = torch.from_numpy(cmvn.apply(filterbank(pcm)))[None]  # type: ignore[attr-defined]
    found = ModelScorer(model, features, torch.tensor([features.shape[1]]), n_experts).head(0)
    assert found is not None
    return found.logits_V


def test_the_head_tells_octaves_apart_at_every_size_and_its_cost_is_logged(run: Path) -> None:
    loaded, random = load_model(str(run)), np.random.default_rng(7)
    male, female = (loaded.tokenizer.special_id("gender", label) for label in ("male", "female"))
    for size in loaded.model.sizes:
        for octave in (1, 2) * 3:
            logits_V = head_of(
                loaded.model, beeps("".join(random.choice(list("abcdefgh"), 4)), octave, random), loaded.cmvn, size
            )
            assert (logits_V[female] > logits_V[male]) == (octave == 2)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    costs = [line["speaker"] for line in lines if "speaker" in line]
    assert costs[-1] < 0.5 * costs[0]
    assert any("dev_speaker" in line for line in lines)


def test_a_run_with_a_head_goes_on_to_the_bit(handoff: Path, tmp_path: Path) -> None:
    settings = config.load(
        None, [*SMALL, *HEAD, "model.moe.experts=[3]", "data.labelled_weight=3", "train.max_steps=4"]
    )
    train(str(handoff), tmp_path / "whole", settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "cut" / f"step-{step:08d}")
    train(str(handoff), tmp_path / "cut", settings)
    whole, cut = (load_file(tmp_path / name / "step-00000004" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(name.startswith("speaker_head.") for name in whole)


def test_all_else_begins_from_the_same_weights_with_and_without_a_head() -> None:
    small = {"d_model": 32, "heads": 2, "d_ff": 32, "encoder_layers": 2, "decoder_layers": 1, "kernel": 5}
    torch.manual_seed(0)
    without = SpeechModel(ModelSettings(**small), 30).state_dict()  # type: ignore[arg-type]
    torch.manual_seed(0)
    head = SpeakerHeadSettings(attributes=["gender"], layers=1)
    with_head = SpeechModel(ModelSettings(**small, speaker_head=head), 30).state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(tensor, with_head[name]) for name, tensor in without.items())
    assert {name.partition(".")[0] for name in with_head.keys() - without.keys()} == {"speaker_head"}


def test_a_clip_is_answered_alike_alone_and_beside_a_longer_one() -> None:
    torch.manual_seed(0)
    head = SpeakerHeadSettings(attributes=["gender"])
    small = {"d_model": 32, "heads": 2, "d_ff": 32, "encoder_layers": 2, "decoder_layers": 1, "kernel": 5}
    model = SpeechModel(ModelSettings(**small, speaker_head=head), 30).eval()  # type: ignore[arg-type]
    features = torch.randn(2, 90, 80)
    lengths = torch.tensor([90, 41])
    together = ModelScorer(model, features, lengths, 7).head(1)
    alone = ModelScorer(model, features[1:, :41], lengths[1:], 7).head(0)
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(together.logits_V, alone.logits_V, atol=1e-5)


def test_rare_labels_count_more_within_bounds_and_unknown_ones_not_at_all(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["a"], Scheme())
    known = {"gender": ["female", "male"], "age": ["adult", "child"]}
    counts = {"gender": {"f": 30, "male": 10}, "age": {"adult": 10_000, "child": 1}}
    labels = SpeakerLabels.of(known, counts, tokenizer)
    assert labels.attributes[0].balance == (pytest.approx(2 / 3), 2.0), "data sets' names of a label count with ours"
    assert labels.attributes[1].balance[1] == MOST_BALANCE
    rows = make_rows(tmp_path, 4)
    known_rows = [at(rows[0], gender="m"), at(rows[1], age="child", gender="f"), rows[2], at(rows[3], age="robot")]
    targets = labels.targets(known_rows)
    assert targets.tolist() == [[1, -1], [0, 1], [-1, -1], [-1, -1]]
    logits = torch.zeros(4, len(tokenizer), requires_grad=True)
    loss = labels.loss(logits, targets)
    expected = np.log(2) * np.array([2, 2 / 3 + MOST_BALANCE, 0, 0])
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-5)
    loss.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[2:].any()
    others = [token for token in range(len(tokenizer)) if tokenizer.label_of(token) is None]
    assert not logits.grad[:, others].any(), "nothing is spread over the vocabulary"


def test_labelled_clips_are_drawn_more_often(handoff: Path) -> None:
    from model_training.data.handoff import Handoff
    from model_training.data.source import Source

    def drawn(*more: str) -> tuple[int, int]:
        settings = config.load(None, [*SMALL, *HEAD, *more])
        opened = Handoff.open(str(handoff))
        source = Source(opened, opened.tokenizer(), settings)
        rows = [row for n in range(source.planner.batches_per_epoch(0)) for row in source.planner.batch(0, n)]
        labelled = source.index.labelled(["gender"])[np.array(rows)]
        return int(labelled.sum()), int((~labelled).sum())

    assert drawn() == (24, 24)
    assert drawn("data.labelled_weight=3") == (72, 24)
    once, twice = (drawn("data.labelled_weight=3", "data.attribute_dropout=0.5") for _ in range(2))
    assert once == twice
    assert once[0] < 72, "a label that is taken for unknown earns nothing"


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
def test_an_export_answers_as_torch_does(run: Path, tmp_path: Path, format: str) -> None:
    loaded, pcm = load_model(str(run)), beeps("abcd", 2, np.random.default_rng(0))
    (done, *_) = export(run, 3, format, tmp_path / "out", measure=False)
    folder = ExportFolder.open(done.folder)
    exported = OnnxModel(folder, threads=1)
    features = folder.cmvn.apply(filterbank(pcm))[None]
    found = OnnxScorer(exported, features, np.array([features.shape[1]])).head(0)
    assert found is not None
    assert found.attributes == ("gender", "language")
    want = head_of(loaded.model, pcm, loaded.cmvn, 3)
    np.testing.assert_allclose(found.logits_V, want, atol=1e-4 if format == "onnx" else 0.5)
    for octave, gender in ((1, "male"), (2, "female")):
        audio = beeps("hgfedcba", octave, np.random.default_rng(octave))
        (heard,) = Recognizer(done.folder, threads=1).recognize([audio], speaker="head")
        assert heard.gender == gender
    assert "speaker.onnx" in (done.folder / "README.md").read_text()


def test_a_stream_answers_as_the_whole_does(tmp_path: Path) -> None:
    chunks = ["model.causal=true", "model.dynamic_chunks=true", "model.moe.experts=[3]"]
    checkpoint = make_checkpoint(tmp_path / "run", *chunks, *HEAD)
    (done,) = export(checkpoint, "all", "onnx", tmp_path / "out", measure=False)
    recognizer, pcm = StreamingRecognizer(tmp_path / "out" / done.folder.name, threads=1), noise(16_000, seed=2)
    found: list[np.ndarray] = []
    graph = recognizer._model.speaker_head

    class Listening:
        def run(self, outputs: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            found.append(feed["early"])
            answer: list[np.ndarray] = graph.run(outputs, feed)
            return answer

    recognizer._model.__dict__["speaker_head"] = Listening()
    list(recognizer.stream([pcm], StreamSettings(chunk=100)))
    folder, model = ExportFolder.open(done.folder), full_model(checkpoint)
    features = torch.from_numpy(folder.cmvn.apply(filterbank(pcm)))[None]
    with torch.inference_mode():
        _, _, want = model.encode_early(features, torch.tensor([features.shape[1]]), 3)
    assert want is not None
    np.testing.assert_allclose(found[-1], want.numpy(), atol=1e-4)


def test_weights_give_their_head_or_leave_it_out(run: Path, handoff: Path, tmp_path: Path) -> None:
    begin = ["train.max_steps=1", f"train.init_from={run}", "model.moe.experts=[3,7]"]

    def begun(name: str, *more: str) -> dict[str, list[str]]:
        train(str(handoff), tmp_path / name, config.load(None, [*SMALL, *begin, *more]))
        report: dict[str, list[str]] = json.loads((tmp_path / name / "init_from.json").read_text())
        return report

    parts = ["frame.bias", "frame.weight", "hidden.bias", "hidden.weight", "mix_E", "out.bias", "out.weight"]
    assert {f"speaker_head.{part}" for part in parts} <= set(begun("same", *HEAD)["taken"])
    assert {f"speaker_head.{part}" for part in parts} == set(begun("without")["left"])
    begin[1] = f"train.init_from={tmp_path / 'without'}"
    assert {f"speaker_head.{part}" for part in parts} == set(begun("fresh", *HEAD)["fresh"])
    begin[1] = f"train.init_from={run}"
    with pytest.raises(UserError, match=r"set model\.speaker_head\.layers=2$"):
        begun("layers", *HEAD, "model.speaker_head.layers=1")
    with pytest.raises(UserError, match=r"set model\.speaker_head\.hidden=64$"):
        begun("hidden", *HEAD, "model.speaker_head.hidden=8")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.speaker_head.attributes=[gender,mood]"], "give some of language, age, gender, emotion, each once"),
        (["model.speaker_head.attributes=[age]"], "has a label for age; take it out, or label some clips"),
        (["model.speaker_head.attributes=[age]", "model.speaker_head.layers=5"], "at most model.encoder_layers=2"),
        (["data.labelled_weight=2"], "name some, for example model.speaker_head.attributes=[gender,age]"),
    ],
)
def test_a_head_that_cannot_be_is_refused_in_one_line(
    handoff: Path, tmp_path: Path, settings: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(handoff), "--out", str(tmp_path / "run"), *SMALL, *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_head_alone_is_not_asked_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", "model.moe.ffn=none")
    (done,) = export(checkpoint, "all", "onnx", tmp_path / "out", measure=False)
    for command in (["decode", str(checkpoint), "x.wav"], ["recognize", str(done.folder), "x.wav"]):
        assert main([*command, "--speaker", "head"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("touchasp: the model has no speaker head: train one with")
        assert main([*command, "--speaker", "loudest"]) == 2
        assert "one of surer, head, decoder, not by 'loudest'" in capsys.readouterr().err


def test_a_checkpoint_from_before_there_were_heads_loads(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", "model.moe.ffn=none")
    step = next(checkpoint.rglob("trainer.json"))
    record = json.loads(step.read_text())
    del record["settings"]["model"]["speaker_head"], record["settings"]["loss"]["speaker_weight"]
    del record["settings"]["data"]["labelled_weight"]
    step.write_text(json.dumps(record))
    assert load_model(str(checkpoint)).model.speaker_head is None


def test_settings_of_a_model_without_experts_work_too() -> None:
    head = SpeakerHeadSettings(attributes=["age"], layers=0)
    settings = ModelSettings(d_model=32, d_ff=32, encoder_layers=1, moe=MoESettings(ffn="none"), speaker_head=head)
    model = SpeechModel(settings, 30)
    outputs = model(torch.randn(1, 30, 80), torch.tensor([30]), torch.tensor([[2, 4]]), torch.tensor([2]), 0)
    assert outputs.speaker_logits_BV is not None
    assert outputs.speaker_logits_BV.shape == (1, 30)
