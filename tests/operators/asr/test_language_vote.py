"""Which clips give way to the language of their recording."""

from __future__ import annotations

from operators.asr.language_vote import Ballot, overruled


def ballot(
    language: str | None,
    probability: float | None = 0.5,
    *,
    samples: int = 10,
    recording: str = "a",
    votes: bool = True,
) -> Ballot:
    return Ballot(recording=recording, samples=samples, language=language, probability=probability, votes=votes)


EN = ballot("en", 0.99)


def test_an_unsure_clip_gives_way_to_its_recording() -> None:
    assert overruled([EN, ballot("zh", 0.79), EN], 0.8) == {1: "en"}


def test_a_sure_clip_stays_whatever_the_others_say() -> None:
    assert overruled([EN, ballot("zh", 0.8), EN], 0.8) == {}


def test_an_unsure_clip_of_the_majority_stays() -> None:
    assert overruled([EN, ballot("en", 0.1), EN], 0.8) == {}


def test_a_majority_is_counted_in_time_and_is_more_than_half() -> None:
    long_one = ballot("zh", 0.5, samples=20)
    assert overruled([EN, EN, long_one], 0.8) == {}, "half each: nobody decides"
    assert overruled([EN, EN, EN, long_one], 0.8) == {3: "en"}
    assert overruled([ballot("en", 0.5), ballot("en", 0.5), ballot("zh", 0.9, samples=21)], 0.8) == {0: "zh", 1: "zh"}


def test_of_three_languages_the_most_frequent_is_not_enough() -> None:
    assert overruled([ballot("en"), ballot("en"), ballot("zh"), ballot("yue")], 0.8) == {}


def test_recordings_decide_for_themselves() -> None:
    chinese = [ballot("zh", 0.9, recording="b")] * 3
    assert overruled([EN, EN, ballot("zh"), *chinese, ballot("en", recording="b")], 0.8) == {2: "en", 6: "zh"}


def test_what_is_not_trusted_overrules_nobody_and_may_be_overruled() -> None:
    music = [ballot("ja", 0.3, samples=100, votes=False)] * 3
    assert overruled([EN, ballot("zh"), EN, *music], 0.8) == dict.fromkeys((1, 3, 4, 5), "en")


def test_unknown_languages_and_probabilities_are_left_alone() -> None:
    assert overruled([EN, EN, ballot(None), ballot("zh", None)], 0.8) == {}
    assert overruled([], 0.8) == {}


def test_zero_switches_it_off() -> None:
    assert overruled([EN, EN, ballot("zh", 0.01)], 0.0) == {}


def test_the_order_of_clips_decides_nothing() -> None:
    clips = [EN, ballot("zh", 0.3), EN, ballot("yue", 0.4), ballot("en", 0.2)]
    there = {clips[index]: language for index, language in overruled(clips, 0.8).items()}
    back = list(reversed(clips))
    assert {back[index]: language for index, language in overruled(back, 0.8).items()} == there
