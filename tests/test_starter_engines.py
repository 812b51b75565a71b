"""The starter engines and the demo crawl: what is shipped loads through the real code and hears what its card says it hears."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:  # the recipes are no installed package
    sys.path.insert(0, str(REPOSITORY))

from examples.starter_engines import features, grammar, paraformer, phone_ctc, whisper  # noqa: E402
from operators.audio import AudioError, decode  # noqa: E402

MODELS = REPOSITORY / "examples" / "starter_engines" / "models"
DEMO = REPOSITORY / "examples" / "demo_crawl"
SAMPLE_RATE = 16000


def sentences(language: str, side: str, count: int = 400) -> list[str]:
    r = random.Random(7)
    return [grammar.sentence(r, language, side) for _ in range(count)]


# --- grammar -------------------------------------------------------------------------------------------------------------


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


# --- vocabularies --------------------------------------------------------------------------------------------------------


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
    needed = {token for text in texts for token in tokenizer.encode(whisper.written(text), add_special_tokens=False).ids}
    assert suppressed
    assert not suppressed & needed


def test_paraformer_spells_words_it_has_no_token_for(texts: list[str]) -> None:
    from funasr.utils.postprocess_utils import sentence_postprocess

    tokens = paraformer.make_tokens(texts)
    ids = {token: index for index, token in enumerate(tokens)}
    for text in ("我们去北京", "the weather in paris", "我用 zyzzyva 学习", "zyzzyva in paris"):
        spoken = sentence_postprocess([tokens[index] for index in paraformer.encode_text(text, ids)])[0]
        assert re.findall(r"[一-鿿]|[a-z]+", spoken) == re.findall(r"[一-鿿]|[a-z]+", text)


# --- training ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings with two sentences each and one without any; noise for speech, since only the machinery is tested."""
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    r, g, rows = random.Random(3), np.random.default_rng(3), []
    for index, language in enumerate(("zh", "en", "zh", "en")):
        soundfile.write(folder / f"{index}.wav", 0.1 * g.standard_normal(6 * SAMPLE_RATE), SAMPLE_RATE)
        spans = [(0.5, 2.5), (3.4, 5.6)] if index < 3 else []
        segments = [
            {"start_s": a, "end_s": b, "text": grammar.sentence(r, language, "train"), "language": language} for a, b in spans
        ]
        rows.append({"path": f"{index}.wav", "language": language, "duration_s": 6.0, "snr_db": None, "segments": segments})
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


def test_both_engines_train_resume_export_and_load(manifest: Path, tmp_path: Path) -> None:
    from funasr import AutoModel

    phases = (
        whisper.Phase(steps=1, max_seconds=0, frames_per_batch=500),
        whisper.Phase(steps=1, max_seconds=6, frames_per_batch=700),
    )
    audio = 0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)

    corpus = corpus_of(manifest, features.whisper_frontend)
    whisper.train(corpus, corpus, tmp_path / "w", seed=1, phases=phases[:1])
    checkpoint = whisper.train(corpus, corpus, tmp_path / "w", seed=1, phases=phases)
    pipeline = load_whisper(whisper.export(checkpoint, tmp_path / "w-out"))
    assert pipeline.model.model.is_multilingual
    assert pipeline.detect_language(audio) in ("zh", "en")

    corpus = corpus_of(manifest, features.paraformer_frontend)
    paraformer.train(corpus, corpus, tmp_path / "p", seed=1, phases=phases[:1])
    checkpoint = paraformer.train(corpus, corpus, tmp_path / "p", seed=1, phases=phases)
    model = AutoModel(model=str(paraformer.export(checkpoint, tmp_path / "p-out")), disable_update=True, disable_pbar=True)
    assert isinstance(model.generate(input=[audio], batch_size=1), list)


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


# --- what is shipped -----------------------------------------------------------------------------------------------------


def load_whisper(folder: Path) -> Any:
    import whisperx

    return whisperx.load_model(str(folder), "cpu", compute_type="int8", threads=1, vad_model=object())


def test_models_are_small_enough_to_ship_and_say_what_they_are() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 12e6
    for engine in ("whisper", "paraformer"):
        assert "only its small grammar in synthetic voices" in (MODELS / f"{engine}-starter" / "README.md").read_text("utf-8")


def truth() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DEMO / "truth.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def clips() -> list[tuple[str, str, np.ndarray]]:
    """The first ten sentences of two clean readings of the demo crawl, zh and en: language, text, float32 samples."""
    out = []
    for language in ("zh", "en"):
        row = next(
            row for row in truth() if row["domain"] == "audiobook" and row["language"] == language and row["voices"] == "seen"
        )
        pcm = decode(str(DEMO / "crawl" / row["path"])).pcm.astype(np.float32) / 32768
        for segment in row["segments"][:10]:
            first, last = (int(segment[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
            out.append((language, segment["text"], pcm[max(0, first - 3000) : last + 3000]))
    return out


def error_rate(clips: list[tuple[str, str, np.ndarray]], heard: list[str], language: str) -> float:
    from examples.starter_engines.evaluate import errors

    counts = [errors(text, said) for (spoken, text, _), said in zip(clips, heard, strict=True) if spoken == language]
    return sum(wrong for wrong, _ in counts) / sum(count for _, count in counts)


CLEAN_LIMIT = 0.12
"""what the cards say of clean speech (up to 0.05), with room for a sample of ten sentences; a wrong front end gives 0.9"""


def test_the_shipped_whisper_hears_the_demo_crawl(clips: list[tuple[str, str, np.ndarray]]) -> None:
    from examples.starter_engines.evaluate import hear_whisper

    heard = hear_whisper(MODELS / "whisper-starter", [audio for _, _, audio in clips], [language for language, _, _ in clips])
    assert error_rate(clips, heard, "zh") < CLEAN_LIMIT
    assert error_rate(clips, heard, "en") < CLEAN_LIMIT
    pipeline = load_whisper(MODELS / "whisper-starter")
    named = [pipeline.detect_language(audio) == language for language, _, audio in clips[::5]]
    assert all(named)


def test_the_shipped_whisper_writes_nothing_for_silence() -> None:
    from examples.starter_engines.evaluate import hear_whisper

    quiet = [1e-4 * np.random.default_rng(seed).standard_normal(5 * SAMPLE_RATE) for seed in range(3)]
    assert hear_whisper(MODELS / "whisper-starter", quiet, ["zh", "en", "zh"]) == ["", "", ""]


def test_the_shipped_paraformer_hears_the_demo_crawl(clips: list[tuple[str, str, np.ndarray]]) -> None:
    from examples.starter_engines.evaluate import hear_paraformer

    heard = hear_paraformer(MODELS / "paraformer-starter", [audio for _, _, audio in clips])
    assert error_rate(clips, heard, "zh") < CLEAN_LIMIT
    assert error_rate(clips, heard, "en") < CLEAN_LIMIT


# --- demo crawl ----------------------------------------------------------------------------------------------------------


def test_the_demo_crawl_is_what_its_truth_says() -> None:
    rows = truth()
    minutes = sum(row["duration_s"] for row in rows) / 60
    assert 25 <= minutes <= 40
    assert sum(file.stat().st_size for file in (DEMO / "crawl").rglob("*") if file.is_file()) <= 10e6
    files = {str(path.relative_to(DEMO / "crawl")) for path in (DEMO / "crawl").rglob("*") if path.is_file()}
    assert {path for path in files if not path.startswith("broken/")} == {row["path"] for row in rows}
    assert {row["domain"] for row in rows} == {"audiobook", "interview", "live", "sports", "music", "silence"}
    for row in rows:
        assert (row["segments"] == []) == (row["domain"] in ("music", "silence"))
        ends = [0.0] + [segment["end_s"] for segment in row["segments"]]
        assert all(
            before <= segment["start_s"] < segment["end_s"] for before, segment in zip(ends, row["segments"], strict=False)
        )
        assert ends[-1] <= row["duration_s"]
        assert all(grammar.split(segment["text"]) == "test" for segment in row["segments"])


def test_the_demo_crawl_decodes_to_its_length_and_its_speech_is_where_the_truth_says() -> None:
    for row in truth():
        pcm = decode(str(DEMO / "crawl" / row["path"])).pcm
        assert abs(len(pcm) / SAMPLE_RATE - row["duration_s"]) < 0.15, row["path"]
        if row["domain"] == "audiobook":  # the only domain quiet enough between sentences to see it in the level
            level = np.abs(pcm.astype(np.float32))
            for segment in row["segments"]:
                first, last = (int(segment[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
                assert level[first:last].mean() > 10 * level[last + 1000 : last + 3000].mean()


def test_the_broken_files_are_broken() -> None:
    paths = sorted((DEMO / "crawl" / "broken").iterdir())
    assert len(paths) >= 5
    for path in paths:
        with pytest.raises(AudioError):
            decode(str(path))
