"""The engines behind `Recogniser`, run for real on random weights: they hear nothing, but they hear it the same way each time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from operators.asr import CopilotRouter, FunAsr, Recogniser, WhisperX
from operators.clip import Hypothesis
from operators.errors import UserError
from operators.funasr_asr import plain_text, plan_batches

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from engines import random_paraformer, random_whisper, random_whisper_en, sounds  # noqa: E402

SECOND = 16_000


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Clips of mixed lengths, the shortest and the longest allowed among them, and one of digital silence."""
    return [*sounds(2, 30, 5, 7.1, 3.3, 12), np.zeros(2 * SECOND, np.int16)]


@pytest.fixture(scope="module")
def whisper() -> Iterator[WhisperX]:
    engine = WhisperX(str(random_whisper()), compute_type="int8", batch_size=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def paraformer() -> Iterator[FunAsr]:
    engine = FunAsr(str(random_paraformer()))
    yield engine
    engine.close()


def nothing_known(clips: Sequence[np.ndarray]) -> list[None]:
    return [None] * len(clips)


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

    plain = whisperx.load_model(str(random_whisper()), "cpu", compute_type="int8", vad_model=object(), language="zh", threads=1)
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


def test_no_clips_and_clips_over_the_window(whisper: WhisperX) -> None:
    assert whisper.transcribe([], []) == []
    with pytest.raises(ValueError, match="30 s"):
        whisper.transcribe([np.zeros(30 * SECOND + 1, np.int16)], [None])
    with pytest.raises(ValueError, match="2 clips, 1 languages"):
        whisper.transcribe([np.zeros(SECOND, np.int16)] * 2, [None])


def spoiled(folder: Path, target: Path, *, without: str = "", **contents: bytes) -> str:
    """A copy of a model folder with one file left out, or others overwritten (`model_bin` for model.bin)."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(without or "none"))
    for name, content in contents.items():
        (target / name.replace("_", ".")).write_bytes(content)
    return str(target)


def test_a_whisper_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    model = random_whisper()
    (tmp_path / "empty").mkdir()
    mels = spoiled(model, tmp_path / "mels")
    (tmp_path / "mels" / "preprocessor_config.json").write_text('{"feature_size": 128}')
    for name, mend in {
        str(tmp_path / "nowhere"): "no such folder",
        str(tmp_path / "empty"): "convert with ct2-transformers-converter",
        spoiled(model, tmp_path / "tokens", without="tokenizer.json"): "copy it from the model that was converted",
        spoiled(model, tmp_path / "torn", model_bin=(model / "model.bin").read_bytes()[:5000]): "cannot load it",
        mels: "takes 80 mel bands but its preprocessor_config.json gives 128",
        "large-v33": "no such model; the hub has tiny.en",
    }.items():
        with pytest.raises(UserError, match=mend) as error:
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
    ("setting", "mend"),
    [
        ({"compute_type": "int3"}, "this cpu can do .*int8"),
        ({"device": "tpu"}, "choose cpu, cuda"),
        ({"batch_size": 0}, "1 or more"),
        ({"language": "tlh"}, "no language 'tlh'"),
        ({"languages": ["zh", "sichuan"]}, "no language 'sichuan'"),
        ({"asr_options": {"beams": 5}}, "beams"),
    ],
)
def test_wrong_whisper_settings_are_one_clear_line(setting: dict[str, object], mend: str) -> None:
    with pytest.raises(UserError, match=mend) as error:
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


# --- FunAsr ---


def test_paraformer_answers_each_clip_in_order(paraformer: FunAsr, clips: list[np.ndarray]) -> None:
    alone = [paraformer.transcribe([clip], ["zh"])[0].text for clip in clips]
    heard = paraformer.transcribe(clips, ["zh"] * len(clips))
    assert [h.engine for h in heard] == ["funasr/paraformer-random"] * len(clips)
    assert [h.language for h in heard] == ["zh"] * len(clips)
    for index, hypothesis in enumerate(heard):  # padding may turn a token of an untrained model, not the transcript
        likeness = [SequenceMatcher(None, hypothesis.text, text).ratio() for text in alone]
        assert max(range(len(clips)), key=likeness.__getitem__) == index
        assert likeness[index] > 0.9


def test_paraformer_gives_the_same_text_each_time(paraformer: FunAsr, clips: list[np.ndarray]) -> None:
    first = paraformer.transcribe(clips, nothing_known(clips))
    assert paraformer.transcribe(clips, nothing_known(clips)) == first
    assert FunAsr(str(random_paraformer())).transcribe(clips, nothing_known(clips)) == first


def test_modelscope_layout_gives_the_same_text(paraformer: FunAsr, clips: list[np.ndarray], tmp_path: Path) -> None:
    files = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"token_list": "tokens.json"},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    layout = json.dumps({"file_path_metas": files}).encode()
    folder = spoiled(random_paraformer(), tmp_path / "paraformer-random", configuration_json=layout)
    again = FunAsr(folder).transcribe(clips, nothing_known(clips))
    assert again == paraformer.transcribe(clips, nothing_known(clips))
    (tmp_path / "paraformer-random" / "model.pt").unlink()
    with pytest.raises(UserError, match="no weights"):  # FunASR itself goes on with random ones
        FunAsr(folder)


def test_a_batch_in_which_no_clip_holds_a_token(clips: list[np.ndarray], tmp_path: Path) -> None:
    import torch

    folder = spoiled(random_paraformer(), tmp_path / "deaf")
    weights = torch.load(tmp_path / "deaf" / "model.pt")
    weights["predictor.cif_output.bias"].fill_(-50)
    torch.save(weights, tmp_path / "deaf" / "model.pt")
    heard = FunAsr(folder, max_padding=100).transcribe(clips, nothing_known(clips))
    assert [h.text for h in heard] == [""] * len(clips)


def test_languages_may_go_to_the_model(paraformer: FunAsr, clips: list[np.ndarray]) -> None:
    told = FunAsr(str(random_paraformer()), language="given", max_padding=0)
    languages = ["zh", "en", None, "en", "zh", "en", "yue"]
    one_by_one = FunAsr(str(random_paraformer()), max_clips=1).transcribe(clips, languages)
    assert told.transcribe(clips, languages) == one_by_one  # Paraformer takes no language: only the order could change


def test_a_copilot_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    model = random_paraformer()
    (tmp_path / "empty").mkdir()
    for name, mend in {
        str(tmp_path / "nowhere"): "no such folder",
        str(tmp_path / "empty"): "neither config.yaml nor configuration.json",
        spoiled(model, tmp_path / "weightless", without="model.pt"): "init_param does not exist",
        spoiled(model, tmp_path / "torn", model_pt=b"torn"): "FunASR cannot load it",
        spoiled(model, tmp_path / "other", tokens_json=b'["<blank>", "<s>", "</s>", "<unk>"]'): "FunASR cannot load it",
        "paraformer-zhh": "no such name; FunASR knows",
    }.items():
        with pytest.raises(UserError, match=mend) as error:
            FunAsr(name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    with pytest.raises(UserError, match="choose ms"):
        FunAsr("paraformer-zh", hub="github")
    with pytest.raises(UserError, match="batch_seconds"):
        FunAsr(str(model), batch_seconds=0)


@pytest.mark.parametrize("hub", ["ms", "hf"])
def test_a_copilot_not_in_the_cache_is_one_clear_line(hub: str) -> None:
    with pytest.raises(UserError, match=r"not in the local cache.*local folder in copilot\.models") as error:
        FunAsr("nobody/no-such-model", hub=hub, local_files_only=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("transcript", "text", "language"),
    [
        ("<|zh|><|NEUTRAL|><|Speech|><|woitn|>你好世界", "你好世界", "zh"),
        ("<|en|><|HAPPY|><|Speech|><|withitn|>Hello there.", "Hello there.", "en"),
        ("<|yue|><|EMO_UNKNOWN|><|Speech|><|woitn|>佢哋", "佢哋", "yue"),
        ("<|nospeech|><|EMO_UNKNOWN|><|BGM|><|woitn|>", "", None),
        ("<|en|><|SAD|><|Speech|><|woitn|>one <|en|><|SAD|><|Speech|><|woitn|>two", "one two", "en"),
        ("你好", "你好", None),
        ("a < b | c > d", "a < b | c > d", None),
        ("", "", None),
    ],
)
def test_tags_leave_the_text(transcript: str, text: str, language: str | None) -> None:
    assert plain_text(transcript) == (text, language)


@given(
    lengths=st.lists(st.integers(2 * SECOND, 30 * SECOND), max_size=80),
    bound=st.integers(20 * SECOND, 300 * SECOND),
    padding=st.floats(0, 0.3),
    clips=st.integers(1, 20),
)
@settings(max_examples=150, deadline=None)
def test_batches_hold_every_clip_once_within_their_bounds(lengths: list[int], bound: int, padding: float, clips: int) -> None:
    batches = plan_batches(lengths, bound, padding, clips)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert len(batch) == 1 or padded <= bound
        assert len(batch) <= clips
        assert padded <= (1 + padding) * sum(lengths[i] for i in batch) + 1e-6
    firsts = [lengths[batch[0]] for batch in batches]
    assert firsts == sorted(firsts, reverse=True), "the longest first, so that memory runs out early or never"


def test_equal_clips_fill_a_batch() -> None:
    assert plan_batches([SECOND] * 10, 4 * SECOND) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# --- the copilot of each language ---


class Echo:
    """An engine that tells which clips it was given, and whether it is open."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal = name, journal
        journal.append(f"open {name}")

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        self.journal.append(f"{self.name} {len(clips)}")
        return [Hypothesis(engine=self.name, text=f"{clip[0]}", language=code) for clip, code in zip(clips, languages)]

    def close(self) -> None:
        self.journal.append(f"close {self.name}")


class LoadEcho:
    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal = name, journal

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LoadEcho) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> Recogniser:
        return Echo(self.name, self.journal)


def test_each_language_goes_to_its_copilots() -> None:
    journal: list[str] = []
    echo = {name: LoadEcho(name, journal) for name in "abcd"}
    # two loaders that compare equal are one engine; a loader may stand alone or in a list
    router = CopilotRouter(
        {"zh": echo["a"], "en": [echo["b"], LoadEcho("a", journal)], "yue": [echo["c"]], "ja": [echo["d"]], "ko": []}
    )
    clips = [np.full(4, number, np.int16) for number in range(6)]
    answers = router.transcribe(clips, ["zh", "en", "fr", None, "zh-CN", "ko"])
    assert [None if a is None else [(h.engine, h.text) for h in a] for a in answers] == [
        [("a", "0")],
        [("b", "1"), ("a", "1")],
        None,
        None,
        [("a", "4")],
        None,
    ]
    assert journal == ["open a", "a 3", "open b", "b 1"], "loaded on first need, all clips of all languages in one call"
    router.transcribe(clips[:1], ["zh"])
    router.close()
    assert journal[4:] == ["a 1", "close a", "close b"]


def test_the_rest_of_the_languages_have_a_copilot_of_their_own() -> None:
    router = CopilotRouter({"zh": LoadEcho("a", []), "*": LoadEcho("rest", [])})
    answers = router.transcribe([np.zeros(1, np.int16)] * 3, ["zh", "sw", None])
    assert [a[0].engine for a in answers if a] == ["a", "rest", "rest"]


def test_the_router_with_a_real_copilot(paraformer: FunAsr, clips: list[np.ndarray]) -> None:
    router = CopilotRouter({"zh": [lambda: FunAsr(str(random_paraformer()))]})
    answers = router.transcribe(clips[:3], ["zh", "en", "zh"])
    expected = paraformer.transcribe([clips[0], clips[2]], ["zh", "zh"])
    assert answers == [(expected[0],), None, (expected[1],)]


# --- manners ---

QUIET_PROGRAM = """
import logging, socket, sys
def refuse(*args, **kwargs): raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
logging.basicConfig(level=logging.INFO, format="host %(message)s")
before = (list(logging.root.handlers), logging.root.level)
import numpy as np
from operators.asr import FunAsr, WhisperX
assert "torch" not in sys.modules, "importing operators.asr must stay cheap"
silence = [np.zeros(32000, np.int16)] * 2
for engine in (WhisperX(sys.argv[1], compute_type="int8"), FunAsr(sys.argv[2])):
    assert len(engine.transcribe(silence, [None, "zh"])) == 2
    engine.close()
assert (logging.root.handlers, logging.root.level) == before
import whisperx.vads.pyannote, gc
from pyannote.audio import Model
assert not [thing for thing in gc.get_objects() if issubclass(type(thing), Model)], "no VAD is loaded"
logging.info("still heard")
"""


def test_engines_keep_quiet_and_off_the_network() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", QUIET_PROGRAM, str(random_whisper()), str(random_paraformer())],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout, done.stderr) == ("", "host still heard\n")
