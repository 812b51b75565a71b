"""The recogniser without torch: what it hears, how it cuts and joins, and what it says about bad input."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.data.features import Cmvn
from model_training.decoding.recognize import Recognizer, add_arguments, main
from model_training.decoding.scorer import ModelScorer
from model_training.decoding.search import METHODS, SearchSettings, decode_batch
from model_training.decoding.windows import cut, windows
from model_training.export.export import export
from model_training.text.perception import Grammar
from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE, filterbank
from tests.support.corpus import full_model, make_checkpoint, one_thread
from tests.support.odd_recordings import odd

SETTINGS = ("model.moe.experts=[3,7]", "data.max_clip_frames=200", "data.max_frames=2000")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that heard clips of 2 s at most."""
    return make_checkpoint(tmp_path_factory.mktemp("run"), *SETTINGS)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(checkpoint, 7, "onnx", tmp_path_factory.mktemp("onnx") / "n7", measure=False)[0].folder


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Recognizer:
    return Recognizer(folder, threads=1)


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades three times a second: int16 at 16 kHz."""
    count = int(seconds * SAMPLE_RATE)
    swell = 1 + np.sin(np.arange(count) / SAMPLE_RATE * 6 * np.pi)
    return (np.random.default_rng(seed).normal(0, 2000, count) * swell).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("method", METHODS)
def test_it_says_what_the_torch_model_says(recognizer: Recognizer, checkpoint: Path, method: str) -> None:
    clips = [speech(seconds, seed) for seed, seconds in enumerate((1.9, 0.6, 1.2))]
    got = recognizer.recognize(clips, method=method, beam=3)
    model, tokenizer = full_model(checkpoint), recognizer.tokenizer
    cmvn = Cmvn.from_dict(json.loads((checkpoint / "cmvn.json").read_text()))
    for clip, recognition in zip(clips, got):
        features_1F80 = torch.from_numpy(cmvn.apply(filterbank(clip)))[None]
        scorer = ModelScorer(model, features_1F80, torch.tensor([features_1F80.shape[1]]), 7)
        (want,) = decode_batch(scorer, tokenizer, Grammar(tokenizer), SearchSettings(method=method, beam=3))
        assert recognition.ids == want.ids
        assert recognition.score == pytest.approx(want.score, abs=1e-3)
        assert (recognition.text, recognition.gender) == (want.text, want.gender)


def test_a_device_needs_only_the_base(folder: Path, tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    installed = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    packages = {"torch", "onnx", "torchaudio", "safetensors", "yaml", "omegaconf", "pyarrow", "rich", "boto3", "ray"}
    packages |= {"pypinyin", "opencc", "jiwer", "rapidfuzz", "webdataset", "whisperx", "funasr", "scipy", "pandas"}
    packages |= {"numpy", "av", "soundfile", "onnxruntime"}
    elsewhere = packages - installed
    soundfile.write(tmp_path / "a.flac", speech(1.0), SAMPLE_RATE)
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(elsewhere)!r}:
            raise ImportError(f"the recogniser imports {{name}}")
sys.meta_path.insert(0, Refuse())
from model_training.decoding.recognize import Recognizer
recognizer = Recognizer({str(folder)!r}, threads=1)
for method in {METHODS!r}:
    (found,) = recognizer.recognize([{str(tmp_path / "a.flac")!r}], method=method, beam=2)
assert found.gender in ("male", "female"), found
assert "torch" not in sys.modules
print("heard")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "heard\n", done.stderr


def test_batches_change_no_answer(recognizer: Recognizer) -> None:
    clips = [speech(0.4 + 0.17 * number, number) for number in range(9)]
    together = recognizer.recognize(clips, method="attention", beam=2)
    apart = [recognizer.recognize([clip], method="attention", beam=2)[0] for clip in clips]
    assert [found.ids for found in together] == [found.ids for found in apart]


def test_int8_answers_do_not_depend_on_company(checkpoint: Path, tmp_path: Path) -> None:
    (done,) = export(checkpoint, 7, "onnx-int8", tmp_path / "int8", measure=False)
    small = Recognizer(done.folder, threads=1)
    clips = [speech(1.5, 1), speech(0.5, 2)]
    together = small.recognize(clips, method="attention_rescoring", beam=2)
    assert together == [small.recognize([clip], method="attention_rescoring", beam=2)[0] for clip in clips]


def test_any_file_is_heard_as_its_samples_at_16_khz(recognizer: Recognizer, tmp_path: Path) -> None:
    pcm = speech(1.5)
    soundfile.write(tmp_path / "stereo.wav", np.stack([pcm, pcm], 1), SAMPLE_RATE)
    soundfile.write(tmp_path / "mono.flac", pcm, SAMPLE_RATE)
    as_float = pcm.astype(np.float32) / 32768
    found = recognizer.recognize(
        [pcm, as_float, tmp_path / "stereo.wav", str(tmp_path / "mono.flac")], method="ctc_greedy"
    )
    assert len(found) == 4
    assert found[0].ids
    assert all(one == found[0] for one in found)


def test_a_long_recording_is_cut_heard_and_joined(recognizer: Recognizer) -> None:
    pcm = speech(7.0)
    longest = 400 + 199 * 160  # samples of 200 frames
    parts = list(windows(pcm, longest))
    assert len(parts) > 3
    (whole,) = recognizer.recognize([pcm], method="attention", beam=1)
    heard = recognizer.recognize(parts, method="attention", beam=1)
    assert whole.ids == tuple(token for part in heard for token in part.ids)
    text_ids = recognizer.tokenizer.text_ids
    assert whole.text == recognizer.tokenizer.decode(token for token in whole.ids if token in text_ids)
    for kind in ("language", "gender", "age", "emotion"):
        assert getattr(whole, kind) in {getattr(part, kind) for part in heard}


def test_a_file_is_cut_where_its_samples_are(tmp_path: Path) -> None:
    pcm = speech(700.0)  # longer than a block that is read at once
    soundfile.write(tmp_path / "long.flac", pcm, SAMPLE_RATE)
    longest = 30 * SAMPLE_RATE
    from_file, from_samples = list(windows(tmp_path / "long.flac", longest)), list(windows(pcm, longest))
    assert [len(part) for part in from_file] == [len(part) for part in from_samples]
    assert (np.concatenate(from_file) == pcm).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400_000), st.integers(16_000, 60_000), st.integers(0, 99))
def test_windows_tile_the_recording(samples: int, longest: int, seed: int) -> None:
    pcm = np.random.default_rng(seed).integers(-3000, 3000, samples).astype(np.int16)
    parts = list(windows(pcm, longest))
    assert (np.concatenate(parts) == pcm).all()
    assert all(len(part) <= longest for part in parts)
    assert len(parts) == 1 or all(len(part) >= longest // 4 for part in parts)


def test_the_cut_falls_into_the_pause() -> None:
    pcm = speech(2.5)
    pcm[:] = np.random.default_rng(0).integers(-3000, 3000, len(pcm))
    pcm[22_000:25_000] = 0
    assert 22_000 <= cut(pcm, 32_000) <= 25_000


def test_given_labels_and_single_tasks(recognizer: Recognizer) -> None:
    (found,) = recognizer.recognize([speech(1.0)], method="attention", given={"language": "yue", "gender": "female"})
    assert (found.language, found.gender) == ("yue", "female")
    with pytest.raises(UserError, match="not trained for the task 'gender': it has transcribe"):
        recognizer.recognize([speech(1.0)], task="gender")
    with pytest.raises(UserError, match="language=fr is not in the scheme"):
        recognizer.recognize([speech(1.0)], given={"language": "fr"})


def test_too_little_audio_says_nothing(recognizer: Recognizer) -> None:
    for pcm in (np.zeros(0, np.int16), np.zeros(1000, np.int16)):
        (found,) = recognizer.recognize([pcm])
        assert (found.text, found.language, found.events) == ("", None, ())
    assert len(recognizer.recognize([np.zeros(10, np.int16), speech(1.0), np.zeros(10, np.int16)])) == 3


def test_mistakes_are_one_clear_line(recognizer: Recognizer, folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no audio")
    with pytest.raises(
        UserError, match=r"cannot read .*notes.wav as audio \(Invalid data found when processing input\): convert"
    ):
        recognizer.recognize([tmp_path / "notes.wav"])
    soundfile.write(tmp_path / "empty.wav", speech(0.0), SAMPLE_RATE)
    with pytest.raises(UserError, match=r"cannot read .*empty.wav as audio \(no samples\): copy or record it again"):
        recognizer.recognize([tmp_path / "empty.wav"])
    (tmp_path / "nothing.wav").touch()
    with pytest.raises(UserError, match=r"cannot read .*nothing.wav as audio \(empty file\): copy or record it again"):
        recognizer.recognize([tmp_path / "nothing.wav"])
    with pytest.raises(UserError, match=r"cannot read .*none.wav: no such file"):
        recognizer.recognize([tmp_path / "none.wav"])
    with pytest.raises(UserError, match="one dimension"):
        recognizer.recognize([np.zeros((2, 16_000), np.int16)])
    with pytest.raises(UserError, match="unknown decoding method 'best'"):
        recognizer.recognize([speech(1.0)], method="best")
    with pytest.raises(UserError, match="no folder"):
        Recognizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"several exports: give one of them, for example .*{folder.name}"):
        Recognizer(folder.parent)
    with pytest.raises(UserError, match="is it a folder that export wrote"):
        Recognizer(tmp_path)
    (torch_export,) = export(checkpoint, 3, "safetensors", tmp_path / "torch", measure=False)
    with pytest.raises(UserError, match="holds safetensors: export it with --format onnx"):
        Recognizer(torch_export.folder)


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*arguments])


def test_a_card_that_is_not_there_is_one_line_with_the_fix(folder: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=f"{device} was asked for: say device cpu, or pip uninstall onnxruntime"):
            main(options(str(folder), "talk.wav", "--device", device))
    with pytest.raises(UserError, match="no device is called gpu: say auto, cpu, cuda, or cuda:1"):
        main(options(str(folder), "talk.wav", "--device", "gpu"))


def test_an_onnxruntime_for_cards_without_one_takes_the_cpu_unless_asked(
    folder: Path, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built for CUDA it offers it wherever it is installed; without a driver it quietly runs on the CPU."""
    import onnxruntime

    assert recognizer.device == "cpu"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    auto = Recognizer(folder, threads=1, device="auto")
    assert auto.device == "cpu"
    assert auto.recognize([speech(1.0)]) == recognizer.recognize([speech(1.0)])
    with pytest.raises(UserError, match=r"cannot use cuda here, for want of the card.*say device cpu"):
        Recognizer(folder, threads=1, device="cuda")


def test_a_damaged_export_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"

    def fresh() -> None:
        copy.mkdir(exist_ok=True)
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())

    fresh()
    content = (copy / "encoder.onnx").read_bytes()
    (copy / "encoder.onnx").write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"encoder.onnx is missing or not \d+ bytes"):
        Recognizer(copy)
    (copy / "encoder.onnx").write_bytes(b"\xff" * len(content))
    with pytest.raises(UserError, match=r"encoder.onnx cannot be loaded"):
        Recognizer(copy)
    fresh()
    (copy / "config.json").write_text('{"schema_version": 1, "format": "onnx"}')
    with pytest.raises(UserError, match=r"config.json is damaged \(files, group"):
        Recognizer(copy)
    good = json.loads((folder / "config.json").read_text())
    for key, value in (("max_frames", "many"), ("tasks", None)):
        (copy / "config.json").write_text(json.dumps(good | {key: value}))
        with pytest.raises(UserError, match=rf"config.json is damaged \({key}\)"):
            Recognizer(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is damaged"):
        Recognizer(copy)


def test_the_command_goes_on_after_a_bad_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "good.wav", speech(1.0), SAMPLE_RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    audio = [str(tmp_path / "bad.wav"), str(tmp_path / "good.wav")]
    code = main(options(str(folder), *audio, "--json", "--beam", "2", "--given", "language=en"))
    printed = capsys.readouterr()
    assert code == 2
    assert "bad.wav as audio" in printed.err
    (line,) = printed.out.splitlines()
    assert json.loads(line)["audio"] == audio[1]
    assert json.loads(line)["language"] == "en"
    assert main(options(str(folder), audio[1], "--method", "ctc_greedy")) == 0
    assert capsys.readouterr().out.startswith(f"{audio[1]}\t")
    (tmp_path / "hole.opus").write_bytes(odd("hole.opus"))
    assert main(options(str(folder), str(tmp_path / "hole.opus"), "--method", "ctc_greedy")) == 0
    printed = capsys.readouterr()
    assert re.search(r"hole\.opus: \d+\.\d\d to \d+\.\d\d s could not be read \(gap\)", printed.err)
    assert printed.out.count("\n") == 1
    with pytest.raises(UserError, match="not trained for the task 'gender'"):  # once, not for every file
        main(options(str(folder), *audio, "--task", "gender"))
    with pytest.raises(UserError, match="write KIND=LABEL"):
        main(options(str(folder), audio[1], "--given", "yue"))
