"""The recipe of the starter engines: its grammar, vocabularies, training, and the one command with what it refuses."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.starter_engines import (
    evaluate,
    features,
    grammar,
    make,
    paraformer,
    phone_ctc,
    synthesize,
    whisper,
)
from operators.audio.decode import decode
from operators.errors import UserError
from tests.support.engines import SAMPLE_RATE, load_whisper


def sentences(language: str, side: str, count: int = 400) -> list[str]:
    r = random.Random(7)
    return [grammar.sentence(r, language, side) for _ in range(count)]


# --- grammar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_sentence_of_one_side_is_never_on_the_other(language: str) -> None:
    train, test = set(sentences(language, "train", 3000)), set(sentences(language, "test", 1000))
    assert not train & test
    assert len(train) > 2500
    assert all(re.fullmatch(r"[一-鿿a-z ]+", text) for text in train | test), "spoken form: no digits, no punctuation"


@pytest.mark.parametrize(
    ("value", "zh", "en"),
    [
        (0, "零", "zero"),
        (10, "十", "ten"),
        (23, "二十三", "twenty three"),
        (100, "一百", "one hundred"),
        (105, "一百零五", "one hundred and five"),
        (215, "二百一十五", "two hundred and fifteen"),
        (299, "二百九十九", "two hundred and ninety nine"),
    ],
)
def test_numbers_are_read_as_people_read_them(value: int, zh: str, en: str) -> None:
    assert (grammar.number_zh(value), grammar.number_en(value)) == (zh, en)


# --- vocabularies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences("zh", "train") + sentences("en", "train")


def test_the_whisper_vocabulary_gives_back_what_it_was_given(texts: list[str]) -> None:
    tokenizer = whisper.train_tokenizer(texts)
    for text in [*texts, *sentences("zh", "test"), "龘 zyzzyva"]:
        written = whisper.written(text)
        ids = tokenizer.encode(written, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == written
    assert max(map(len, (tokenizer.encode(word).ids for word in ("我", " the", "京")))) == 1


def test_the_whisper_vocabulary_survives_the_tokens_that_faster_whisper_suppresses(texts: list[str]) -> None:
    from faster_whisper.tokenizer import Tokenizer

    tokenizer = whisper.train_tokenizer(texts)
    suppressed = set(Tokenizer(tokenizer, True, task="transcribe", language="zh").non_speech_tokens)
    needed = {
        token for text in texts for token in tokenizer.encode(whisper.written(text), add_special_tokens=False).ids
    }
    assert suppressed
    assert not suppressed & needed


def test_paraformer_spells_words_it_has_no_token_for(texts: list[str]) -> None:
    from funasr.utils.postprocess_utils import sentence_postprocess

    tokens = paraformer.make_tokens(texts)
    ids = {token: index for index, token in enumerate(tokens)}
    for text in ("我们去北京", "the weather in paris", "我用 zyzzyva 学习", "zyzzyva in paris"):
        spoken = sentence_postprocess([tokens[index] for index in paraformer.encode_text(text, ids)])[0]
        assert re.findall(r"[一-鿿]|[a-z]+", spoken) == re.findall(r"[一-鿿]|[a-z]+", text)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings with two sentences each and one without any; noise for speech, since only the machinery is
    tested.
    """
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    r, g, rows = random.Random(3), np.random.default_rng(3), []
    for index, language in enumerate(("zh", "en", "zh", "en")):
        soundfile.write(folder / f"{index}.wav", 0.1 * g.standard_normal(6 * SAMPLE_RATE), SAMPLE_RATE)
        spans = [(0.5, 2.5), (3.4, 5.6)] if index < 3 else []
        segments = [
            {"start_s": a, "end_s": b, "text": grammar.sentence(r, language, "train"), "language": language}
            for a, b in spans
        ]
        rows.append(
            {"path": f"{index}.wav", "language": language, "duration_s": 6.0, "snr_db": None, "segments": segments}
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def corpus_of(manifest: Path, frontend: features.Frontend) -> features.Corpus:
    folder = manifest.parent / frontend.__name__
    features.extract(manifest, folder, frontend)
    return features.Corpus(folder)


@pytest.mark.parametrize("max_seconds", [0, 4, 29])
def test_every_pass_cuts_every_sentence_once_and_whole(manifest: Path, max_seconds: float) -> None:
    corpus = corpus_of(manifest, features.whisper_frontend)
    for seed in range(20):
        examples = corpus.examples(random.Random(seed), max_seconds)
        said = "".join(e.text for e in examples).replace(" ", "")
        assert sorted(said) == sorted("".join(corpus.texts()).replace(" ", ""))
        for example in examples:
            row = next(row for row in corpus.index if row["start"] <= example.start < row["start"] + row["frames"])
            assert example.end <= row["start"] + row["frames"]
            for start, end, text in row["sentences"]:
                inside = example.start <= row["start"] + start and row["start"] + end <= example.end
                outside = row["start"] + end <= example.start or example.end <= row["start"] + start
                assert inside if text in example.text else outside


def test_features_of_a_cut_are_those_of_the_clip_by_itself(manifest: Path) -> None:
    """What the trainer sees of a clip is what whisperX computes of it."""
    import torch
    from whisperx.audio import log_mel_spectrogram

    corpus = corpus_of(manifest, features.whisper_frontend)
    example = features.Example(start=100, end=300, text="", language="zh")
    tokenizer = whisper.train_tokenizer(corpus.texts())
    mel = whisper.collate(corpus, [example], tokenizer, True)["mel"][0]
    samples = decode(str(manifest.parent / "0.wav")).pcm.astype(np.float32) / 32768
    expected = log_mel_spectrogram(samples[SAMPLE_RATE : 3 * SAMPLE_RATE], 80, padding=28 * SAMPLE_RATE)
    assert mel.shape == expected.shape
    difference = torch.abs(mel - expected)
    assert float(difference[:, 3:197].max()) < 0.01
    assert float(difference[:, 203:].max()) < 0.02


def test_both_engines_train_resume_export_and_load(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from funasr import AutoModel

    phases = (
        whisper.Phase(steps=1, max_seconds=0, frames_per_batch=500),
        whisper.Phase(steps=1, max_seconds=6, frames_per_batch=700, restart=1e-3),
    )
    audio = 0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)

    corpus = corpus_of(manifest, features.whisper_frontend)
    whisper.train(corpus, corpus, tmp_path / "w", seed=1, phases=phases[:1])
    shared = whisper.Phase(steps=1, max_seconds=29, frames_per_batch=700, restart=1e-3, shared=True)
    checkpoint = whisper.train(corpus, corpus, tmp_path / "w", seed=1, phases=(phases[0], shared))
    assert "2 steps from 1\n" in capsys.readouterr().out
    pipeline = load_whisper(whisper.export(checkpoint, tmp_path / "w-out"))
    config = json.loads((tmp_path / "w-out" / "config.json").read_text("utf-8"))
    assert config["alignment_heads"] == [[layer, head] for layer in range(2) for head in range(4)]
    assert pipeline.model.model.is_multilingual
    assert pipeline.detect_language(audio) in ("zh", "en")

    corpus = corpus_of(manifest, features.paraformer_frontend)
    paraformer.train(corpus, corpus, tmp_path / "p", seed=1, phases=phases[:1])
    checkpoint = paraformer.train(corpus, corpus, tmp_path / "p", seed=1, phases=phases)
    assert "2 steps from 1\n" in capsys.readouterr().out
    model = AutoModel(
        model=str(paraformer.export(checkpoint, tmp_path / "p-out")), disable_update=True, disable_pbar=True
    )
    (heard,) = model.generate(input=[audio], batch_size=1)
    assert isinstance(heard["text"], str)


def test_phone_loss_is_that_of_the_right_phones() -> None:
    """Logits that spell out a text's phones cost next to nothing; for another text they cost much."""
    import torch

    texts = [("我们去北京", "zh")]
    names = phone_ctc.inventory([*texts, ("你好朋友", "zh")])
    ids = {phone: index for index, phone in enumerate(names)}
    spelt = [ids[phone] for phone in phone_ctc.phones(*texts[0])]
    logits = torch.full((1, 2 * len(spelt), len(names) + 1), -10.0)
    for at, phone in enumerate(spelt):
        logits[0, 2 * at, phone] = logits[0, 2 * at + 1, len(names)] = 10.0
    frames = torch.tensor([logits.shape[1]])
    assert float(phone_ctc.ctc_loss(logits, frames, texts, ids)) < 0.01
    assert float(phone_ctc.ctc_loss(logits, frames, [("你好朋友", "zh")], ids)) > 1


# --- one command, and what it refuses ---------------------------------------------------------------------------------


Change = str | Callable[[dict[str, Any]], Any]
"""what the first line of a manifest becomes, or what is done to it"""


def rewritten(manifest: Path, name: str, change: Change) -> Path:
    """A copy of a manifest beside it, its first line changed."""
    first, *others = manifest.read_text("utf-8").splitlines()
    if not isinstance(change, str):
        row = json.loads(first)
        change(row)
        change = json.dumps(row, ensure_ascii=False)
    path = manifest.with_name(name)
    path.write_text("\n".join([change, *others]) + "\n", "utf-8")
    return path


def refusal(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `make` refuses arguments with."""
    assert make.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("touchasp: ")
    assert error.count("\n") == 1
    return error


def segment(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row["segments"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{]", ":1: Expecting"),
        ("[]", ":1: expected a JSON object"),
        (lambda row: row.pop("path"), ":1: no path"),
        (lambda row: row.update(path="gone.wav"), ":1: no audio at 'gone.wav'"),
        (lambda row: row.pop("language"), ":1: no language"),
        (lambda row: row.update(language="de"), ":1: language is zh or en, not 'de'"),
        (lambda row: row.pop("segments"), ":1: no segments"),
        (lambda row: row["segments"][0].pop("end_s"), ":1: a segment has no end_s"),
        (lambda row: row["segments"][0].pop("text"), ":1: the segment at 0.5 s has no text"),
        (segment(start_s=2.5), ":1: a segment runs from start_s to end_s"),
        (segment(start_s=-1), ":1: a segment runs from start_s to end_s"),
        (segment(end_s=float("nan")), ":1: end_s is no number"),
        (segment(end_s=10**400), ":1: end_s is no number"),
        (segment(end_s=31), ":1: the segment at 0.5 s is 30.5 s long"),
        (segment(text="Good morning"), ":1: the text of the segment at 0.5 s has 'G'"),
        (segment(text="room 7"), ":1: the text of the segment at 0.5 s has '7'"),
    ],
)
def test_a_bad_manifest_is_refused_by_line(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    bad = rewritten(manifest, "bad.jsonl", change)
    own = ["--manifest", manifest, "--dev-manifest", bad, "--out", tmp_path / "out"]
    assert f"{bad}{message}" in refusal([tmp_path / "work", *own], capsys)


def test_models_that_are_shipped_are_not_overwritten_with_ones_of_a_manifest(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "give --out" in refusal([tmp_path, "--manifest", manifest, "--dev-manifest", manifest], capsys)


def test_audio_is_read_as_the_pipeline_reads_it(manifest: Path) -> None:
    import soundfile

    row = synthesize.read_manifest(manifest)[0]
    np.testing.assert_array_equal(synthesize.read_audio(row), soundfile.read(row["file"], dtype="float32")[0])
    stereo = manifest.with_name("stereo.flac")
    soundfile.write(stereo, np.zeros((6 * 44_100, 2)), 44_100)
    assert len(synthesize.read_audio(row | {"file": stereo})) == 6 * SAMPLE_RATE
    row["segments"][-1]["end_s"] = 6.4
    assert len(synthesize.read_audio(row)) == 6 * SAMPLE_RATE
    row["segments"][-1]["end_s"] = 6.6
    with pytest.raises(UserError, match=r"0.wav is 6.00 s long, a segment of it runs from 3.4 to 6.6 s"):
        synthesize.read_audio(row)
    with pytest.raises(UserError, match=r"manifest.jsonl cannot be read: "):
        synthesize.read_audio(row | {"file": manifest})


def test_a_work_folder_is_of_one_manifest(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the training itself, twice; then with another manifest, and in a folder that tells nothing."""
    import torch

    out = tmp_path / "out"
    (out / "whisper-starter").mkdir(parents=True)
    (out / "whisper-starter" / "README.md").write_text("of other weights")
    monkeypatch.setattr(make, "train", lambda work, engine: work / engine / "checkpoint.pt")
    monkeypatch.setattr(whisper, "export", lambda checkpoint, folder: folder)
    arguments = [tmp_path / "work", "--only", "whisper", "--dev-manifest", manifest, "--out", out]
    arguments += ["--threads", torch.get_num_threads()]
    folder = tmp_path / "work" / "whisper"
    folder.mkdir(parents=True)
    (folder / "made.json").write_text('{"hours": 1, "seed": 1}')  # of a try that finished nothing
    for _ in range(2):
        assert make.main([str(argument) for argument in [*arguments, "--manifest", manifest]]) == 0
        assert f"evaluate --models {out} --manifest {manifest}\n" in capsys.readouterr().out
    assert [path.name for path in (out / "whisper-starter").iterdir()] == ["training.json"]
    training = json.loads((out / "whisper-starter" / "training.json").read_text("utf-8"))
    assert training == {"data": "manifest.jsonl", "hours": round(24 / 3600, 3), "voices": None, "seed": 11}
    other = rewritten(manifest, "other.jsonl", segment(text="we go to london"))
    assert f"{folder} was made from manifest.jsonl (SHA-256 " in refusal([*arguments, "--manifest", other], capsys)
    (folder / "made.json").unlink()
    assert f"{folder} does not say what it was made from" in refusal([*arguments, "--manifest", manifest], capsys)
    (folder / "made.json").write_text('{"manifest": null, "hours": 16, "seed": 11}')
    assert "was made from 16 h of eSpeak NG (seed 11), not from 2.0 h" in refusal(
        [tmp_path / "work", "--only", "whisper", "--hours", "2"], capsys
    )


def test_one_engine_that_fails_stops_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    fails = "import sys; print('made', flush=True); print('touchasp: no', file=sys.stderr); sys.exit(2)"
    began = time.monotonic()
    commands = {
        "whisper": [sys.executable, "-c", "import time; time.sleep(100)"],
        "paraformer": [sys.executable, "-c", fails],
    }
    assert make.side_by_side(commands) == 2
    assert time.monotonic() - began < 60
    assert capsys.readouterr() == ("paraformer: made\n", "paraformer: touchasp: no\n")
    assert make.side_by_side({name: [sys.executable, "-c", ""] for name in commands}) == 0


def test_segments_of_a_manifest_are_what_is_measured(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = evaluate.given_clips(manifest, 3)
    assert [(clip.language, clip.voices, clip.snr_db) for clip in clips] == [("zh", "given", None)] * 3 + [
        ("en", "given", None)
    ] * 2
    said = {s["text"]: s["end_s"] - s["start_s"] for row in synthesize.read_manifest(manifest) for s in row["segments"]}
    assert all(abs(len(clip.audio) / SAMPLE_RATE - said[clip.text]) < 1e-3 for clip in clips)
    assert evaluate.main(["--models", str(tmp_path), "--manifest", str(manifest)]) == 2
    assert capsys.readouterr().err.startswith(f"touchasp: {tmp_path} has no whisper-starter")
