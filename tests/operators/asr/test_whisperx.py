"""The engines behind `Recogniser`, run for real on random weights: they hear nothing, but they hear it the same way
each time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from operators.asr.recogniser import FunAsr, WhisperX
from operators.asr.whisper_folder import has_alignment_heads
from operators.audio.decode import decode
from operators.clip import Hypothesis
from operators.errors import UserError
from tests.conftest import REPOSITORY
from tests.support.engines import (
    mixed_clips,
    nothing_known,
    random_paraformer,
    random_whisper,
    random_whisper_en,
    sounds,
    spoiled,
)

SECOND = 16_000


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return mixed_clips()


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperX]:
    engine = WhisperX(str(random_whisper()), compute_type="int8", batch_size=4)
    yield engine
    engine.close()


# --- WhisperX ---


def test_whisper_answers_each_clip_in_order(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    heard = whisper.transcribe(clips, nothing_known(clips))
    assert [h.engine for h in heard] == ["whisperx/whisper-random"] * len(clips)
    assert len({h.text for h in heard}) == len(clips), "the texts must differ for order to be seen"
    assert whisper.transcribe(clips[::-1], nothing_known(clips)) == heard[::-1]


def test_whisper_hears_a_clip_alone_as_in_a_batch(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    assert [whisper.transcribe([clip], [None])[0] for clip in clips] == whisper.transcribe(clips, nothing_known(clips))


def test_whisper_equals_plain_whisperx_in_a_fixed_language(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    import whisperx

    plain = whisperx.load_model(
        str(random_whisper()), "cpu", compute_type="int8", vad_model=object(), language="zh", threads=1
    )
    inputs = ({"inputs": clip.astype(np.float32) / 32768} for clip in clips)
    expected = list(plain(inputs, batch_size=4, num_workers=0))
    heard = whisper.transcribe(clips, ["zh"] * len(clips))
    assert [h.text for h in heard] == [item["text"].strip() for item in expected]
    assert [h.avg_logprob for h in heard] == pytest.approx([item["avg_logprob"] for item in expected], abs=1e-4)


def test_whisper_identifies_each_clip_as_whisperx_identifies_a_file(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    import whisperx

    plain = whisperx.load_model(str(random_whisper()), "cpu", compute_type="int8", vad_model=object(), threads=1)
    heard = whisper.transcribe(clips, nothing_known(clips))
    assert [h.language for h in heard] == [plain.detect_language(clip.astype(np.float32) / 32768) for clip in clips]
    assert len({h.language for h in heard}) > 1
    assert all(h.language_prob is not None and 0 < h.language_prob <= 1 for h in heard)


def test_a_batch_of_mixed_languages_equals_one_batch_per_language(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    per_language = {code: whisper.transcribe(clips, [code] * len(clips)) for code in ("zh", "en", "yue")}
    assert per_language["zh"][0].text != per_language["en"][0].text, "the prompt must matter for this to be a test"
    mixed = ["zh", "en", "yue", "en", "zh", "yue", "en"]
    assert whisper.transcribe(clips, mixed) == [per_language[code][i] for i, code in enumerate(mixed)]


def test_the_probability_of_a_given_language_is_the_models(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    told = [whisper.transcribe(clips[:1], [code])[0] for code in ("zh", "en", "yue")]
    assert [h.language for h in told] == ["zh", "en", "yue"]
    assert sum(h.language_prob or 0 for h in told) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("given_code", "reported", "decoded_as"),
    [
        ("zh-CN", "zh", "zh"),
        ("ZH_tw", "zh", "zh"),
        ("zh-HK", "yue", "yue"),
        ("en-US", "en", "en"),
        ("sichuan", "sichuan", "zh"),
    ],
)
def test_language_codes_as_people_write_them(
    whisper: WhisperX, clips: list[np.ndarray], given_code: str, reported: str, decoded_as: str
) -> None:
    (heard,), (expected,) = (whisper.transcribe(clips[:1], [code]) for code in (given_code, decoded_as))
    assert heard.language == reported
    assert (heard.text, heard.language_prob) == (expected.text, expected.language_prob)


def test_a_language_whisper_cannot_be_prompted_with_is_identified(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    assert whisper.transcribe(clips[:2], ["klingon", ""]) == whisper.transcribe(clips[:2], [None, None])


def test_a_language_in_the_vocabulary_that_the_model_never_learnt_is_prompted_as_its_neighbour(
    clips: list[np.ndarray], tmp_path: Path
) -> None:
    model = Path(shutil.copytree(random_whisper(), tmp_path / "model"))
    tokens = Tokenizer.from_file(str(model / "tokenizer.json"))
    config = json.loads((model / "config.json").read_text())
    config["lang_ids"] = [tokens.token_to_id("<|zh|>"), tokens.token_to_id("<|en|>")]
    (model / "config.json").write_text(json.dumps(config))
    whisper = WhisperX(str(model), compute_type="int8")
    (cantonese,), (mandarin,) = (whisper.transcribe(clips[:1], [code]) for code in ("yue", "zh"))
    assert (cantonese.language, mandarin.language) == ("yue", "zh")
    assert (cantonese.text, cantonese.language_prob) == (mandarin.text, mandarin.language_prob)


def test_settings_of_language_length_and_numerals(clips: list[np.ndarray]) -> None:
    model = str(random_whisper())
    fixed = WhisperX(model, compute_type="int8", language="yue", max_new_tokens=3)
    heard = fixed.transcribe(clips, ["en", *nothing_known(clips[1:])])
    assert [h.language for h in heard] == ["en"] + ["yue"] * (len(clips) - 1)
    tokens = Tokenizer.from_file(f"{model}/tokenizer.json")
    assert all(len(tokens.encode(h.text, add_special_tokens=False).ids) <= 4 for h in heard)
    assert {h.language for h in WhisperX(model, languages=["en"]).transcribe(clips, nothing_known(clips))} == {"en"}

    allowed = {tokens.token_to_id(token) for token in (*"0123456789", "<|endoftext|>")}
    options = {"suppress_tokens": [token for token in range(tokens.get_vocab_size()) if token not in allowed]}
    (spoken,) = WhisperX(model, asr_options=options).transcribe(clips[:1], [None])
    assert spoken.text.isdigit()
    (silenced,) = WhisperX(model, asr_options=options, suppress_numerals=True).transcribe(clips[:1], [None])
    assert not set(silenced.text) & set("0123456789")


def test_english_only_models(clips: list[np.ndarray]) -> None:
    engine = WhisperX(str(random_whisper_en()), compute_type="int8")
    heard = engine.transcribe(clips[:3], [None, "en", "zh"])
    assert [(h.language, h.language_prob) for h in heard] == [("en", None)] * 3
    assert len({h.text for h in heard}) == 3
    with pytest.raises(UserError, match="no language 'zh'; it has en"):
        WhisperX(str(random_whisper_en()), language="zh")


# --- shared windows ---


def retake(hypothesis: Hypothesis) -> Hypothesis:
    """The hypothesis as of an engine that shares no windows."""
    return replace(hypothesis, window=None, retaken=None)


def test_without_recordings_no_window_is_shared(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    assert {(h.window, h.retaken) for h in whisper.transcribe(clips, nothing_known(clips))} == {(None, None)}


def test_only_consecutive_clips_of_one_recording_and_language_share_a_window(whisper: WhisperX) -> None:
    clips = sounds(3.0, 4.0, 5.0, 3.5, 2.0, 6.0, 2.5)
    heard = whisper.transcribe(clips, ["en", "en", "zh", None, None, None, None], list("aaaaabb"))
    assert [h.window for h in heard] == [0, 0, 1, 2, 2, 3, 3]
    assert [h.language for h in heard[:3]] == ["en", "en", "zh"]


def test_what_is_heard_again_is_heard_as_if_alone(
    whisper: WhisperX, clips: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights write nonsense, which every guard catches; a window is encoded once, and once more what is
    heard again.
    """
    passes: list[int] = []
    encode = whisper._model.encode
    monkeypatch.setattr(whisper._model, "encode", lambda mels: [passes.append(len(mels)), encode(mels)][1])
    heard = whisper.transcribe(clips, ["en"] * len(clips), ["one"] * len(clips))
    again = [index for index, h in enumerate(heard) if h.retaken]
    assert len(again) > len(clips) // 2, "most of what random weights write must be in doubt"
    assert sum(passes) == len({h.window for h in heard}) + len(again)
    plain = whisper.transcribe(clips, ["en"] * len(clips))
    assert [retake(heard[index]) for index in again] == [plain[index] for index in again]


def test_shared_windows_are_a_function_of_the_clips(clips: list[np.ndarray]) -> None:
    answers = []
    for batch_size in (1, 4, 16):
        engine = WhisperX(str(random_whisper()), compute_type="int8", batch_size=batch_size)
        answers.append(engine.transcribe(clips, nothing_known(clips), ["one"] * len(clips)))
        assert answers[-1] == engine.transcribe(clips, nothing_known(clips), ["one"] * len(clips))
        engine.close()
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("config", [b"{}", b'{"alignment_heads": []}', b"no json"])
def test_a_model_that_gives_no_word_times_hears_clips_alone(
    tmp_path: Path, clips: list[np.ndarray], config: bytes
) -> None:
    folder = spoiled(random_whisper(), tmp_path / "headless", **{"config.json": config})
    assert not has_alignment_heads(Path(folder))
    assert has_alignment_heads(random_whisper())
    if config != b"{}":  # the rest of it is needed to load the model
        return
    values = json.loads((random_whisper() / "config.json").read_text())
    del values["alignment_heads"]
    (Path(folder) / "config.json").write_text(json.dumps(values))
    engine = WhisperX(folder, compute_type="int8")
    assert {h.window for h in engine.transcribe(clips, nothing_known(clips), ["one"] * len(clips))} == {None}


def test_a_clip_in_another_language_than_its_window_is_heard_in_its_own() -> None:
    """The starter Whisper, which knows English and Chinese."""
    engine = WhisperX(str(REPOSITORY / "examples" / "starter_engines" / "models" / "whisper-starter"))
    crawl = REPOSITORY / "examples" / "demo_crawl" / "crawl" / "audiobook"
    english, chinese = (decode(str(crawl / name)).pcm for name in ("the-long-road-02.opus", "城里的早晨-01.opus"))
    clips = [english[: 4 * SECOND], chinese[: 4 * SECOND], english[4 * SECOND : 8 * SECOND]]
    alone = engine.transcribe(clips, [None] * 3)
    assert [h.language for h in alone] == ["en", "zh", "en"]
    heard = engine.transcribe(clips, [None] * 3, ["one"] * 3)
    assert [(h.window, h.language) for h in heard] == [(0, "en"), (0, "zh"), (0, "en")]
    assert heard[1].retaken
    assert retake(heard[1]) == alone[1]
    told = engine.transcribe(clips, ["en"] * 3, ["one"] * 3)
    assert {h.language for h in told} == {"en"}, "what a source says is not doubted"


def test_progress_is_reported_clip_by_clip_to_the_end(whisper: WhisperX, clips: list[np.ndarray]) -> None:
    told: list[tuple[int, float]] = []
    whisper.transcribe(clips, nothing_known(clips), ["one"] * len(clips), lambda *done: told.append(done))
    assert told == sorted(told)
    assert len(told) == len(clips)
    assert told[-1] == (len(clips), pytest.approx(sum(map(len, clips)) / SECOND))


def test_no_clips_and_clips_over_the_window(whisper: WhisperX) -> None:
    assert whisper.transcribe([], []) == []
    with pytest.raises(ValueError, match="30 s"):
        whisper.transcribe([np.zeros(30 * SECOND + 1, np.int16)], [None])
    with pytest.raises(ValueError, match="2 clips, 1 languages"):
        whisper.transcribe([np.zeros(SECOND, np.int16)] * 2, [None])


def test_a_whisper_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    model = random_whisper()
    (tmp_path / "empty").mkdir()
    mels = spoiled(model, tmp_path / "mels")
    (tmp_path / "mels" / "preprocessor_config.json").write_text('{"feature_size": 128}')
    for name, advice in {
        str(tmp_path / "nowhere"): "no such folder",
        str(tmp_path / "empty"): "convert with ct2-transformers-converter",
        spoiled(model, tmp_path / "tokens", without="tokenizer.json"): "copy it from the model that was converted",
        spoiled(model, tmp_path / "torn", model_bin=(model / "model.bin").read_bytes()[:5000]): "cannot load it",
        mels: "takes 80 mel bands but its preprocessor_config.json gives 128",
        "large-v33": "no such model; the hub has tiny.en",
    }.items():
        with pytest.raises(UserError, match=advice) as error:
            WhisperX(name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


def test_an_unreachable_hub_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for local_files_only in (True, False):
        with pytest.raises(UserError, match=r"not in the local cache.*asr\.model=/path/to/folder") as error:
            WhisperX("large-v3", download_root=str(tmp_path), local_files_only=local_files_only)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ({"compute_type": "int3"}, "this cpu can do .*int8"),
        ({"device": "tpu"}, "choose cpu, cuda"),
        ({"batch_size": 0}, "1 or more"),
        ({"language": "tlh"}, "no language 'tlh'"),
        ({"languages": ["zh", "sichuan"]}, "no language 'sichuan'"),
        ({"asr_options": {"beams": 5}}, "beams"),
    ],
)
def test_wrong_whisper_settings_are_one_clear_line(setting: dict[str, object], advice: str) -> None:
    with pytest.raises(UserError, match=advice) as error:
        WhisperX(str(random_whisper()), **setting)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_gpu_that_is_not_there_is_one_clear_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UserError, match=r"set asr\.device=cpu"):
        WhisperX(str(random_whisper()), device="cuda")
    with pytest.raises(UserError, match=r"set copilot\.device=cpu"):
        FunAsr(str(random_paraformer()), device="cuda:0")


# --- manners ---

QUIET_PROGRAM = """
import logging, socket, sys
def refuse(*args, **kwargs): raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
logging.basicConfig(level=logging.INFO, format="host %(message)s")
before = (list(logging.root.handlers), logging.root.level)
import gc, os
import numpy as np
from operators.asr.recogniser import FunAsr, WhisperX
from operators.speech.vad import load_vad
assert "torch" not in sys.modules, "importing operators.asr.recogniser must stay cheap"
vad = load_vad("pyannote")
vad.speech(np.zeros(16000, np.int16))
assert os.environ["PYANNOTE_METRICS_ENABLED"] == "0"
from pyannote.audio import Model
def models(): return sum(issubclass(type(thing), Model) for thing in gc.get_objects())
ours = models()
silence = [np.zeros(32000, np.int16)] * 2
for engine in (WhisperX(sys.argv[1], compute_type="int8"), FunAsr(sys.argv[2])):
    assert len(engine.transcribe(silence, [None, "zh"])) == 2
    engine.close()
assert (logging.root.handlers, logging.root.level) == before
import whisperx.vads.pyannote
assert ours > 0 and models() == ours, "whisperX loads no VAD of its own"
logging.info("still heard")
"""


def test_engines_and_pyannote_keep_quiet_and_off_the_network() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", QUIET_PROGRAM, str(random_whisper()), str(random_paraformer())],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout, done.stderr) == ("", "host still heard\n")
