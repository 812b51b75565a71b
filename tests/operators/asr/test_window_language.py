"""The language of a window: its own where it is sure, its recording's where it is not."""

from __future__ import annotations

from operators.asr.window_language import Choice, Spoken, Trial, choice, decide, mean
from operators.asr.windows import Window
from operators.clip import Span

SECOND = 16_000


def windows(*clips: int) -> list[Window]:
    """Windows of so many clips of 4 s each."""
    first, found = 0, []
    for count in clips:
        spans = tuple(Span(5 * place * SECOND, (5 * place + 4) * SECOND) for place in range(count))
        found.append(Window(tuple(range(first, first + count)), spans))
        first += count
    return found


def says(**chances: float) -> dict[str, float]:
    return {"en": 0.0, "zh": 0.0, "ja": 0.0} | chances


SURE, UNSURE, FOREIGN = says(en=0.95, zh=0.05), says(en=0.4, zh=0.6), says(zh=0.97, en=0.03)


def test_an_unsure_window_goes_by_its_recording_and_says_what_it_was_taken_for() -> None:
    heard = [[SURE] * 4, [SURE] * 4, [UNSURE] * 2]
    chosen, trials = decide(windows(4, 4, 2), heard, ["a"] * 3, sure=0.8)
    assert (chosen, trials) == (["en", "en", "en"], [])
    last = choice(windows(2)[0], [UNSURE] * 2, "en", sure=0.8)
    assert last.spoken == Spoken("en", 0.4, identified=("zh", 0.6))
    assert not last.foreign
    other, _ = decide(windows(4, 4, 2), heard, ["a", "a", "b"], sure=0.8)
    assert other[2] == "zh", "of another recording"


def test_a_sure_window_and_a_sure_clip_keep_their_language() -> None:
    chosen, _ = decide(windows(4, 4, 1), [[SURE] * 4, [SURE] * 4, [FOREIGN]], ["a"] * 3, sure=0.8)
    assert chosen == ["en", "en", "zh"]
    mixed = choice(windows(3)[0], [SURE, FOREIGN, UNSURE], "en", sure=0.8)
    assert mixed.foreign == {1}
    assert [mixed.of_clip(chances, sure=0.8) for chances in (SURE, FOREIGN, UNSURE)] == [
        Spoken("en", 0.95), Spoken("zh", 0.97), Spoken("en", 0.4, identified=("zh", 0.6)),
    ]  # fmt: skip
    given = Choice(Spoken("sichuan", 0.7, "zh"), given=True)
    assert given.of_clip(SURE, sure=0.8) == Spoken("sichuan", 0.05, "zh"), "what is given is not doubted"


def test_two_languages_near_each_other_are_put_to_trial_in_the_longest_unsure_windows() -> None:
    heard = [[UNSURE] * 2, [UNSURE] * 5, [UNSURE] * 3, [FOREIGN] * 4]
    chosen, (trial,) = decide(windows(2, 5, 3, 4), heard, ["a"] * 4, sure=0.8)
    assert chosen == ["zh"] * 4
    assert trial == Trial(languages=("zh", "en"), windows=(0, 1, 2), heard=(1, 2))


def test_a_clear_text_in_the_script_of_the_language_settles_a_trial() -> None:
    trial = Trial(languages=("zh", "en"), windows=(0,), heard=(0,))
    assert trial.settled("他们在看房子", -0.3)
    assert not trial.settled("他们在看房子", -0.6), "as improbable as what is made up"
    assert not trial.settled("they look at the house", -0.2), "in the other's script"
    assert not trial.settled("他们 look at", -0.2)
    assert not trial.settled("12 345", -0.1), "digits tell no language"
    for near in (("en", "la"), ("zh", "ja"), ("yue", "zh"), ("ru", "uk")):
        assert not Trial(languages=near, windows=(0,), heard=(0,)).settled("they look at the house", -0.1), near


def test_nothing_is_overruled_where_nothing_may_be() -> None:
    chosen, trials = decide(windows(4, 1), [[SURE] * 4, [UNSURE]], ["a", "a"], sure=0.0)
    assert (chosen, trials) == (["en", "zh"], [])
    assert choice(windows(2)[0], [SURE, UNSURE], "en", sure=0.0).foreign == {1}, "each clip in its own"


def test_only_candidates_are_chosen() -> None:
    chosen, trials = decide(windows(1), [[says(ja=0.7, zh=0.2, en=0.1)]], ["a"], 0.8, candidates=["en", "zh"])
    assert chosen == ["zh"]
    assert trials[0].languages == ("zh", "en")


def test_long_clips_weigh_more() -> None:
    assert mean([SURE, FOREIGN], [3, 1])["en"] > 0.7
