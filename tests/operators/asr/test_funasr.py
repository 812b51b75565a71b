"""FunASR models and the router of copilots: random weights for the engine, journals for the routing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.asr.funasr import plain_text, plan_batches
from operators.asr.recogniser import CopilotRouter, FunAsr, Progress, Recogniser
from operators.clip import Hypothesis
from operators.errors import UserError
from tests.support.engines import mixed_clips, nothing_known, random_paraformer, spoiled

SECOND = 16_000


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return mixed_clips()


@pytest.fixture(scope="module")
def paraformer() -> Iterator[FunAsr]:
    engine = FunAsr(str(random_paraformer()))
    yield engine
    engine.close()


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
    for name, advice in {
        str(tmp_path / "nowhere"): "no such folder",
        str(tmp_path / "empty"): "neither config.yaml nor configuration.json",
        spoiled(model, tmp_path / "weightless", without="model.pt"): "init_param does not exist",
        spoiled(model, tmp_path / "torn", model_pt=b"torn"): "FunASR cannot load it",
        spoiled(model, tmp_path / "other", tokens_json=b'["<blank>", "<s>", "</s>", "<unk>"]'): "FunASR cannot load it",
        "paraformer-zhh": "no such name; FunASR knows",
    }.items():
        with pytest.raises(UserError, match=advice) as error:
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
def test_batches_hold_every_clip_once_within_their_bounds(
    lengths: list[int], bound: int, padding: float, clips: int
) -> None:
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


class Teller(Echo):
    """An Echo that says after each clip how far it is."""

    def transcribe(
        self, clips: Sequence[np.ndarray], languages: Sequence[str | None], progress: Progress | None = None
    ) -> list[Hypothesis]:
        for done in range(1, len(clips) + 1):
            if progress is not None:
                progress(done, sum(map(len, clips[:done])) / SECOND)
        return super().transcribe(clips, languages)


def test_progress_counts_clips_however_many_copilots_hear_them() -> None:
    telling, silent = lambda: Teller("a", []), LoadEcho("b", [])
    router = CopilotRouter({"en": [telling, silent], "zh": telling})
    clips = [np.zeros(SECOND * seconds, np.int16) for seconds in (1, 2, 3, 4)]
    told: list[tuple[int, float]] = []
    router.transcribe(clips, ["en", "zh", "en", "fr"], lambda *done: told.append(done))  # 5 answers, and a clip of none
    assert [clips for clips, _ in told] == [0, 1, 2, 2, 4]
    assert told == sorted(told)
    assert told[-1] == (4, pytest.approx(10.0))


def test_the_rest_of_the_languages_have_a_copilot_of_their_own() -> None:
    router = CopilotRouter({"zh": LoadEcho("a", []), "*": LoadEcho("rest", [])})
    answers = router.transcribe([np.zeros(1, np.int16)] * 3, ["zh", "sw", None])
    assert [a[0].engine for a in answers if a] == ["a", "rest", "rest"]


def test_the_router_with_a_real_copilot(paraformer: FunAsr, clips: list[np.ndarray]) -> None:
    router = CopilotRouter({"zh": [lambda: FunAsr(str(random_paraformer()))]})
    answers = router.transcribe(clips[:3], ["zh", "en", "zh"])
    expected = paraformer.transcribe([clips[0], clips[2]], ["zh", "zh"])
    assert answers == [(expected[0],), None, (expected[1],)]
