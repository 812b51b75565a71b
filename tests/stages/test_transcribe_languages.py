"""The language of a clip is decided with its recording in view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from operators.asr.hallucination import HallucinationRules
from operators.clip import SAMPLE_RATE, Agreement, Clip, Hypothesis, Piece, Recording, Span, Unit, Verdict, clip_id
from operators.shard import ledger_bytes, read_ledger, sample_record, unit_rows
from stages.transcribe import Transcribe

TEXTS = {"en": "good morning everybody", "zh": "古德摩宁", "yue": "早晨大家好", "xx": "good morning"}
SECONDS = 3


class Bilingual:
    """Takes the clip whose samples are n for the n-th of its opinions, unless it is told a language."""

    name = "bilingual"

    def __init__(
        self, opinions: Sequence[tuple[str, float | None]], deaf: bool = False, overrules: str | None = None
    ) -> None:
        self.opinions, self.deaf, self.overrules = opinions, deaf, overrules
        self.asked: list[list[str | None]] = []

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        self.asked.append(list(languages))
        return [self._hear(int(clip[0]), told) for clip, told in zip(clips, languages, strict=True)]

    def _hear(self, index: int, told: str | None) -> Hypothesis:
        language, probability = self.opinions[index]
        if self.overrules not in (None, language, told):
            heard = self._hear(index, self.overrules)
            return replace(heard, identified_language=language, identified_prob=probability)
        if told is not None and not self.deaf and told != language:
            language, probability = told, 0.25
        return Hypothesis(
            engine=self.name, text=TEXTS[language], language=language, language_prob=probability, avg_logprob=-0.3
        )

    def close(self) -> None:
        pass


def transcribed(
    *opinions: tuple[str, float | None],
    deaf: bool = False,
    overrules: str | None = None,
    given: str | None = None,
    **settings: Any,
) -> tuple[Unit, list[list[str | None]]]:
    """The unit of one recording, a clip per opinion, after the stage; and what languages the engine was told."""
    engine = Bilingual(opinions, deaf, overrules)
    recording = Recording(recording_id="talk", uri="talk.wav", domain="d", language=given)
    spans = [Span(at * SECONDS * SAMPLE_RATE, (at + 1) * SECONDS * SAMPLE_RATE) for at in range(len(opinions))]
    clips = tuple(
        Clip(clip_id=clip_id("talk", span), recording_id="talk", span=span, speech_samples=1) for span in spans
    )
    audio = np.repeat(np.arange(len(opinions), dtype=np.int16), SECONDS * SAMPLE_RATE)
    unit = Unit(unit_id="d-000000", domain="d", pieces=(Piece(recording=recording),), clips=clips, audio=audio)
    stage = Transcribe(load=lambda: engine, rules=HallucinationRules(), **({"sure_language_prob": 0.8} | settings))
    stage.open()
    return stage.process(unit), engine.asked


def reasons(unit: Unit) -> Mapping[int, str]:
    found = [(at, clip.verdict.rejection) for at, clip in enumerate(unit.clips) if clip.verdict is not None]
    return {at: rejection.reason for at, rejection in found if rejection is not None}


SURE = ("en", 0.99)


def test_an_unsure_clip_is_heard_again_in_the_language_of_its_recording() -> None:
    unit, asked = transcribed(SURE, ("zh", 0.6), SURE)
    assert asked == [[None] * 3, ["en"]]
    (heard,) = unit.clips[1].hypotheses
    assert (heard.text, heard.language, heard.language_prob) == (TEXTS["en"], "en", 0.25)
    assert (heard.identified_language, heard.identified_prob) == ("zh", 0.6)
    assert unit.clips[1].in_play
    assert unit.clips[0].hypotheses[0].identified_language is None


def test_speech_in_two_languages_stays_as_it_is() -> None:
    unit, asked = transcribed(SURE, ("zh", 0.9), SURE, ("zh", 0.85), SURE)
    assert [clip.hypotheses[0].language for clip in unit.clips] == ["en", "zh", "en", "zh", "en"]
    assert len(asked) == 1


def test_a_language_that_the_source_gives_is_left_alone() -> None:
    unit, asked = transcribed(SURE, ("zh", 0.1), SURE, given="en")
    assert asked == [["en"] * 3]
    assert all(clip.hypotheses[0].identified_language is None for clip in unit.clips)
    _, asked = transcribed(SURE, ("zh", 0.1), SURE, language="zh")
    assert asked == [["zh"] * 3]


def test_it_can_be_rejected_instead_and_keeps_what_was_heard() -> None:
    unit, asked = transcribed(SURE, ("zh", 0.6), SURE, retry_language=False)
    assert len(asked) == 1
    assert reasons(unit) == {1: "uncertain_language"}
    assert unit.clips[1].hypotheses[0].text == TEXTS["zh"]
    verdict = unit.clips[1].verdict
    assert verdict is not None
    assert verdict.rejection is not None
    assert verdict.rejection.detail == "zh with 0.60 in a recording of en"


def test_an_engine_may_go_by_the_recording_itself() -> None:
    opinions = (SURE, ("zh", 0.6), SURE)
    unit, asked = transcribed(*opinions, overrules="en")
    assert (len(asked), reasons(unit)) == (1, {})
    assert unit.clips[1].hypotheses[0].language == "en"
    rejected, _ = transcribed(*opinions, overrules="en", retry_language=False)
    assert reasons(rejected) == {1: "uncertain_language"}


def test_an_engine_that_will_not_be_told_keeps_no_label_in_another_script() -> None:
    unit, asked = transcribed(SURE, ("zh", 0.6), SURE, deaf=True)
    assert len(asked) == 2
    assert reasons(unit) == {1: "uncertain_language"}


def test_what_was_rejected_in_the_wrong_language_gets_another_chance() -> None:
    """Four characters in three seconds are too slow for the strict rule here; the English words are not."""
    rules = HallucinationRules()
    rules.rates = {"zh": replace(rules.rate_limits("zh"), min_han_per_second=3.0)}
    unit, _ = transcribed(SURE, ("zh", 0.6), SURE)
    strict = Transcribe(load=lambda: Bilingual([SURE, ("zh", 0.6), SURE]), rules=rules, sure_language_prob=0.8)
    strict.open()
    again = strict.process(replace(unit, clips=tuple(replace(c, hypotheses=(), verdict=None) for c in unit.clips)))
    assert not reasons(again)
    assert again.clips[1].hypotheses[0].language == "en"


def test_a_minimum_of_certainty_holds_for_the_second_hearing_too() -> None:
    unit, _ = transcribed(SURE, ("zh", 0.6), SURE, min_language_prob=0.5)
    assert reasons(unit) == {1: "uncertain_language"}


def test_languages_that_are_not_collected_vote_all_the_same() -> None:
    unit, asked = transcribed(("yue", 0.9), ("zh", 0.6), ("yue", 0.9), languages=("zh", "en"))
    assert asked[1:] == [["yue"]]
    assert reasons(unit) == dict.fromkeys(range(3), "other_language")


def test_zero_switches_it_off() -> None:
    _, asked = transcribed(SURE, ("zh", 0.01), SURE, sure_language_prob=0.0)
    assert len(asked) == 1


def test_the_ledger_says_what_happened_and_the_shard_what_was_heard() -> None:
    unit, _ = transcribed(SURE, ("zh", 0.6), SURE)
    agreement = Agreement(wer=0.0, per=0.0, asr_norm="a", copilot_norm="a", reference="asr", tokens_per_second=1.0)
    clips = tuple(replace(clip, agreement=agreement, verdict=Verdict(label="a")) for clip in unit.clips)
    rows = unit_rows(replace(unit, clips=clips))
    table, _ = read_ledger(ledger_bytes(rows, {}))
    (heard,) = table.to_pylist()[1]["hypotheses"]
    assert (heard["language"], heard["language_prob"]) == ("en", 0.25)
    assert (heard["identified_language"], heard["identified_prob"]) == ("zh", 0.6)
    assert set(sample_record(rows[1])["hypotheses"][0]) == {
        "engine",
        "text",
        "language",
        "language_prob",
        "avg_logprob",
    }
