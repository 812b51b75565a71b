"""OSUM learns a few clips by heart, goes on after a kill to the bit, and two workers equal one; then it is asked."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from model_training.__main__ import main
from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.osum.annotator import OsumAnnotator
from model_training.osum.ask import Answerer, ask_split
from model_training.osum.build import merge, open_model
from model_training.osum.parts.mel import log_mel
from model_training.osum.settings import load
from model_training.osum.tasks import parse_task, target
from model_training.osum.train import train
from model_training.training import checkpoint as checkpoints
from operators.annotate.annotator import Heard, opinions
from operators.errors import UserError
from tests.model_training.osum.questions import make_parts, make_questions
from tests.support.corpus import voice
from tests.support.trainings import start

REPOSITORY = Path(__file__).resolve().parents[3]
WHISPER = f"model.encoder.source={REPOSITORY / 'examples/starter_engines/models/whisper-starter'}"
THREE = "data.tasks={asr: 1, asr+gender: 1, emotion: 1}"


@pytest.fixture(scope="module")
def handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def run(handoff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """osum-tiny after 300 steps."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    done = train(str(handoff), folder, load("osum-tiny", [WHISPER, THREE, "train.threads=1", "train.eval_steps=300"]))
    assert done.finished
    return folder


def answers(model: str, handoff: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """What is true and what was answered, by clip and task."""
    opened = open_model(model, "cpu", "fp32")
    found: dict[tuple[str, str], tuple[str, str]] = {}
    ask_split(
        Answerer(opened),
        Handoff.open(str(handoff)),
        "train",
        [parse_task(name) for name in opened.settings.data.tasks],
        on_answer=lambda row, asked, answer: found.update(
            {(row.clip_id, asked.name): (target(asked, row, opened.labels) or "", answer)}
        ),
    )
    return found


def test_it_learns_twelve_clips_and_three_tasks_by_heart(run: Path, handoff: Path) -> None:
    found = answers(str(run), handoff)
    assert len(found) == 36
    assert sum(true == said for true, said in found.values()) >= 33, found


def test_merged_it_answers_the_same_and_its_llm_is_plain(run: Path, handoff: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merge(str(run), tmp_path / "merged")
    assert answers(str(tmp_path / "merged"), handoff) == answers(str(run), handoff)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged" / "llm").chat_template
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "llm")


def test_the_commands_evaluate_and_ask(
    run: Path, handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "eval"
    common = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
    data = ["--data", str(handoff), "--split", "train"]
    assert main(["osum", "eval", str(run), *data, "--tasks", "asr,asr+gender", "--out", str(out), *common]) == 0
    results = json.loads((out / "eval.json").read_text())["results"]
    assert {result["method"] for result in results} == {"asr", "asr+gender"}
    genders = [r["attributes"]["gender"]["accuracy"]["percent"] for r in results if "gender" in r["attributes"]]
    assert len(genders) == 2, "of two domains, and only where it was asked for"
    assert min(genders) >= 80
    assert b"gender" in (out / "eval.html").read_bytes()

    index = Index.open(str(handoff / "train.arrow"))
    known = answers(str(run), handoff)
    right = {
        clip for clip, _ in known if all(known[clip, task][0] == known[clip, task][1] for task in ("asr", "asr+gender"))
    }
    row = next(row for row in map(index.row, range(len(index))) if row.clip_id in right)
    with open(row.shard, "rb") as file:
        file.seek(row.offset)
        (tmp_path / "clip.flac").write_bytes(file.read(row.size))
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000, np.int16), 16_000)
    capsys.readouterr()
    ask = ["osum", "ask", str(run), str(tmp_path / "clip.flac"), "--all", *common]
    assert main([*ask, "--task", "asr+gender", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["gender"]) == (row.label, row.gender)
    assert main([*ask, "--prompt", "Write down what is said."]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'clip.flac'}\t{row.label}\n"
    # Nobody speaks: an empty answer, and no invention.
    assert main(["osum", "ask", str(run), str(tmp_path / "silence.wav"), "--task", "asr+gender", *common]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'silence.wav'}\t\t-\n"
    assert main([*ask, "--task", "age"]) == 2
    assert "was not trained for the task age" in capsys.readouterr().err
    assert main(["osum", "inspect", str(run)]) == 0
    assert "a card needs about" in capsys.readouterr().out


def test_it_annotates(run: Path, handoff: Path) -> None:
    annotator = OsumAnnotator(str(run), kinds=["gender", "emotion"], device="cpu", precision="fp32")
    index = Index.open(str(handoff / "train.arrow"))
    rows = [index.row(place) for place in range(4)]
    clips = [Heard(pcm=_pcm(row.shard, row.offset, row.size), text=row.label, language="en") for row in rows]
    found = opinions(annotator, [*clips, Heard(pcm=np.zeros(0, np.int16), text="")], ["gender", "emotion"])
    said = [{one.kind: one.labels[0] for one in opinion} for opinion in found[:4]]
    true = [{"emotion": row.emotion, "gender": row.gender} for row in rows]
    assert sum(ours[kind] == one[kind] for ours, one in zip(said, true, strict=True) for kind in one) >= 7
    assert found[4] == (), "of nothing it has no opinion"
    annotator.close()
    with pytest.raises(UserError, match="gives no opinion of age: it was trained for gender, emotion"):
        OsumAnnotator(str(run), kinds=["age"], device="cpu")


def _pcm(shard: str, offset: int, size: int) -> np.ndarray:
    import io

    with open(shard, "rb") as file:
        file.seek(offset)
        pcm: np.ndarray = soundfile.read(io.BytesIO(file.read(size)), dtype="int16")[0]
    return pcm


# --- with a few thousand weights and LoRA ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        *make_parts(tmp_path_factory.mktemp("parts")),
        "phases=[{steps: 2, parts: [adaptor]}, {steps: 2, parts: [adaptor, encoder]}, "
        "{steps: 0, parts: [adaptor, encoder, llm]}]",
        "data.tasks={asr: 1, asr+gender: 1, words: 1, chat: 1, style: 1}",
        "data.languages=[en, zh]",
        "data.max_clips=4",
        "data.max_frames=3000",
        "data.micro_batches=2",
        "data.loaders=0",
        "train.precision=fp32",
        "train.checkpoint_steps=1",
        "train.keep_checkpoints=100",
        "train.eval_steps=100",
        "train.tensorboard=false",
        "train.max_steps=8",
        "optimizer.ema=0.9",
        "optimizer.learning_rate=0.01",
    ]


@pytest.fixture(scope="module")
def whole(handoff: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(str(handoff), folder, load(None, small))
    return folder


def weights(run: Path, step: int, file: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / f"step-{step:08d}" / f"{file}.safetensors")


def command(handoff: Path, out: Path) -> list[str]:
    return ["osum", "train", "--data", str(handoff), "--out", str(out)]


def test_a_killed_run_goes_on_to_the_bit(handoff: Path, small: list[str], whole: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "log", *command(handoff, tmp_path / "run"), *small)
    while len(checkpoints.steps(tmp_path / "run")) < 3 and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert 3 <= len(checkpoints.steps(tmp_path / "run")) < 8
    train(str(handoff), tmp_path / "run", load(None, small))
    for file in ("model", "optimizer", "ema"):
        ours, theirs = weights(tmp_path / "run", 8, file), weights(whole, 8, file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), file


def test_two_workers_equal_one(handoff: Path, small: list[str], whole: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        start(
            tmp_path / f"log{rank}",
            *command(handoff, tmp_path / "run"),
            *small,
            "train.max_steps=4",
            RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_RANK=str(rank),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(processes):
        process.join(250)
        assert process.exitcode == 0, (tmp_path / f"log{rank}").read_text()
    ours, theirs = weights(tmp_path / "run", 4), weights(whole, 4)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_a_phase_may_align_the_adaptor_before_answers_are_learnt(
    handoff: Path, small: list[str], tmp_path: Path
) -> None:
    """The words are read off the adaptor alone; nothing of it depends on where the run stopped."""
    phases = [
        "phases=[{steps: 16, parts: [adaptor], align: 1, answers: false}, {steps: 0, parts: [adaptor, llm], align: 1}]",
        "model.encoder.remember=true",
        "optimizer.ema=0",
        "train.checkpoint_steps=10",
        "train.log_steps=1",
        "train.max_steps=18",
    ]
    train(str(handoff), tmp_path / "run", load(None, [*small, *phases]))
    entries = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    costs = [entry["loss"] for entry in entries if "loss" in entry]
    assert sum(costs[13:16]) < 0.7 * sum(costs[:3]), costs
    before, after = weights(tmp_path / "run", 10), weights(tmp_path / "run", 18)
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == {
        "adaptor",
        "llm",
    }
    shutil.rmtree(tmp_path / "run/step-00000018")
    train(str(handoff), tmp_path / "run", load(None, [*small, *phases]))
    again = weights(tmp_path / "run", 18)
    assert all(torch.equal(again[name], after[name]) for name in after)
    with pytest.raises(UserError, match="give align a weight"):
        load(None, [*small, "phases=[{steps: 0, parts: [adaptor], answers: false}]"]).check()


def test_a_phase_moves_its_parts_alone(whole: Path) -> None:
    moved = [
        {
            name.partition(".")[0]
            for name, tensor in weights(whole, after).items()
            if not torch.equal(tensor, before[name])
        }
        for after, before in ((2, weights(whole, 1)), (4, weights(whole, 3)), (8, weights(whole, 7)))
    ]
    assert moved == [{"adaptor"}, {"adaptor", "encoder"}, {"adaptor", "encoder", "llm"}]


def test_a_checkpoint_holds_what_was_trained_and_nothing_else(whole: Path) -> None:
    names = weights(whole, 8).keys()
    assert all("lora_" in name for name in names if name.startswith("llm."))
    assert any(name.startswith("llm.") for name in names)


@pytest.mark.parametrize("ema", [False, True])
def test_lora_saved_loaded_and_merged_answers_the_same(whole: Path, tmp_path: Path, ema: bool) -> None:
    merge(str(whole), tmp_path / "merged", ema=ema)
    assert any(tensor.any() for name, tensor in weights(whole, 8).items() if "lora_B" in name), "it adds something"
    mel = log_mel(voice(20_000), 80, full_window=False)
    heard = torch.from_numpy(mel.features_FM)[None], torch.tensor([mel.frames])
    losses, said = [], []
    for path in (whole, tmp_path / "merged"):
        model = open_model(str(path), "cpu", "fp32", ema=ema and path == whole).model
        adaptor = weights(whole, 8, "ema" if ema else "model")["adaptor.out.weight"]
        assert torch.equal(model.adaptor.out.weight, adaptor)
        question, answer = model.chat.question("who"), model.chat.answer("it is said by a man")
        losses.append(model.losses(*heard, [question], [answer]).loss_B)
        said.append(model.answer(*heard, [question], 8))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=0)
    assert said[0] == said[1]
    with pytest.raises(UserError, match="is not empty"):
        merge(str(whole), tmp_path / "merged")


def test_another_language_model_under_the_same_name_is_refused(
    whole: Path, small: list[str], handoff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(next(one for one in small if one.startswith("model.llm.source=")).partition("=")[2])
    config = folder / "config.json"
    before = config.read_text()
    try:
        config.write_text(before.replace("}", ' ,"another": 1}', 1) if before.count("}") == 1 else before + " ")
        assert main(["osum", "merge", str(whole), "--out", str(tmp_path / "merged")]) == 2
    finally:
        config.write_text(before)
    (line,) = capsys.readouterr().err.splitlines()
    assert "was trained with another model.llm.source" in line
    assert "put that one back" in line
