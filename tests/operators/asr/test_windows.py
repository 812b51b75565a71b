"""Clips in shared windows: what shares, how it is laid out, whose words are whose, and what is in doubt."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.asr.hallucination import HallucinationRules
from operators.asr.whisper_model import _timed_words
from operators.asr.windows import Share, Window, Word, alone, fill, loops, pack, share_out
from operators.clip import SAMPLE_RATE, Span

SIZE = 30 * SAMPLE_RATE
GAP = round(0.8 * SAMPLE_RATE)
SURE = (-0.1,)


def tone(seconds: float, quiet: float = 0.2) -> np.ndarray:
    """int16 [samples]: a loud middle between quiet edges, as a padded clip has them."""
    samples = round(seconds * SAMPLE_RATE)
    pcm = (8000 * np.sin(np.arange(samples) * 0.3)).astype(np.int16)
    edge = round(quiet * SAMPLE_RATE)
    pcm[:edge] //= 4000
    pcm[samples - edge :] //= 4000
    return pcm


def shared(*clips: np.ndarray) -> Window:
    (window,) = pack([len(clip) for clip in clips], ["r"] * len(clips), GAP, SIZE)
    return window


def word(text: str, start: float, end: float, logprobs: tuple[float, ...] = SURE) -> Word:
    return Word(text, Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)), logprobs)


def heard(clips: list[np.ndarray], words: list[Word], language: str = "en") -> tuple[list[Share], set[int]]:
    return share_out(shared(*clips), words, clips, language, HallucinationRules())


# --- packing ---


@given(
    st.lists(st.tuples(st.integers(1, SIZE), st.sampled_from("ab")), max_size=40),
    st.integers(0, 3 * SAMPLE_RATE),
)
def test_every_clip_is_in_one_window_in_order_and_fits(clips: list[tuple[int, str]], gap: int) -> None:
    lengths, keys = [length for length, _ in clips], [key for _, key in clips]
    windows = pack(lengths, keys, gap, SIZE)
    assert sorted(index for window in windows for index in window.clips) == list(range(len(clips)))
    assert [window.clips[0] for window in windows] == sorted(window.clips[0] for window in windows)
    for window in windows:
        assert window.samples <= SIZE
        assert list(window.clips) == sorted(window.clips)
        assert len({keys[index] for index in window.clips}) == 1
        assert [span.samples for span in window.spans] == [lengths[index] for index in window.clips]
        assert all(right.start - left.end == gap for left, right in pairwise(window.spans))
    for left, right in pairwise(windows):  # no window could have taken the clip that began the next one
        if keys[left.clips[0]] == keys[right.clips[0]]:
            before = [index for index in left.clips if index < right.clips[0]]
            taken = sum(lengths[index] + gap for index in before)
            assert taken + lengths[right.clips[0]] > SIZE


def test_a_short_clip_fills_what_a_long_one_left_of_the_window_before() -> None:
    seconds = [20, 15, 5, 10]
    windows = pack([second * SAMPLE_RATE for second in seconds], ["r"] * 4, GAP, SIZE)
    assert [window.clips for window in windows] == [(0, 2), (1, 3)]


def test_a_clip_as_long_as_the_window_is_alone() -> None:
    assert pack([SIZE, 10], ["r", "r"], GAP, SIZE) == [
        Window((0,), (Span(0, SIZE),)),
        Window((1,), (Span(0, 10),)),
    ]


def test_a_filled_window_holds_the_clips_samples_and_digital_silence() -> None:
    clips = [tone(2.0), tone(3.0), tone(2.5)]
    window = shared(*clips)
    audio = fill(window, clips)
    assert audio.dtype == np.float32
    for clip, span in zip(clips, window.spans, strict=True):
        assert np.array_equal(audio[span.start : span.end], clip.astype(np.float32) / 32768)
    assert not audio[window.spans[0].end : window.spans[1].start].any()
    assert len(audio) == sum(map(len, clips)) + 2 * GAP


def test_alone_is_one_window_each() -> None:
    assert [(window.clips, window.samples, window.shared) for window in alone([5, 7])] == [
        ((0,), 5, False),
        ((1,), 7, False),
    ]


# --- whose words are whose ---


def test_words_go_to_the_clip_whose_sound_they_cover() -> None:
    clips = [tone(2.0), tone(2.0), tone(2.0)]  # at 0, 2.8 and 5.6 s
    words = [
        word(" one", 0.3, 1.0),
        word(" two", 1.0, 2.95),  # the last word before a pause lasts until the next begins
        word(" three", 2.95, 3.6),
        word(" four", 3.6, 4.4),
        word(" five", 4.4, 6.5),  # the pause and the first word of the third clip: its sound is there
        word(" six", 6.5, 7.4),
    ]
    shares, doubtful = heard(clips, words)
    assert [share.text for share in shares] == ["one two", "three four", "five six"]
    assert not doubtful


def test_words_keep_their_order_even_where_times_do_not() -> None:
    clips = [tone(2.0), tone(2.0)]
    words = [word(" a", 0.2, 0.9), word(" b", 3.0, 3.2), word(" c", 0.9, 1.8), word(" d", 3.2, 4.5)]
    shares, _ = heard(clips, words)
    assert " ".join(share.text for share in shares) == "a b c d"
    assert [share.text for share in shares] == ["a b c", "d"]


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 30)), min_size=1, max_size=6), st.integers(2, 4))
def test_the_cut_is_the_best_of_all_cuts(times: list[tuple[int, int]], count: int) -> None:
    clips = [tone(2.0, quiet=0.0) for _ in range(count)]
    window = shared(*clips)
    words = [word(f" w{place}", start / 10, (start + length) / 10) for place, (start, length) in enumerate(times)]

    def covered(owners: tuple[int, ...]) -> float:
        """Seconds of its own clip's sound under each word, by the millisecond."""
        total = 0.0
        for each, owner in zip(words, owners, strict=True):
            span = window.spans[owner]
            total += max(0, min(each.span.end, span.end) - max(each.span.start, span.start)) / SAMPLE_RATE
        return total

    best = max(covered(owners) for owners in combinations_with_replacement(range(count), len(words)))
    shares, _ = heard(clips, words)
    counts = [len(share.text.split()) for share in shares]
    owners = tuple(owner for owner, number in enumerate(counts) for _ in range(number))
    assert len(owners) == len(words)
    assert covered(owners) >= best - 0.02 * len(words)  # sound is counted in frames of 20 ms


def test_scores_are_of_the_clips_own_tokens() -> None:
    clips = [tone(2.0), tone(2.0)]
    shares, _ = heard(clips, [word(" yes indeed", 0.3, 1.5, (-0.2, -0.4)), word(" well then", 3.1, 4.2, (-0.9,))])
    assert [share.avg_logprob for share in shares] == pytest.approx([-0.2, -0.45])


# --- what is in doubt ---

SPOKEN = [" they", " went", " home", " early"]
OTHERS = (
    [" nobody", " saw", " him", " leave"],
    [" rain", " fell", " until", " noon"],
    [" we", " ate", " cold", " soup"],
)


def spread(start: float, texts: list[str], logprob: float = -0.1) -> list[Word]:
    return [
        word(text, start + 0.2 + 0.4 * place, start + 0.6 + 0.4 * place, (logprob,)) for place, text in enumerate(texts)
    ]


def four_clips(second: list[Word]) -> tuple[list[np.ndarray], list[Word]]:
    clips = [tone(2.0) for _ in range(4)]  # at 0, 2.8, 5.6 and 8.4 s
    return clips, [*spread(0, OTHERS[0]), *second, *spread(5.6, OTHERS[1]), *spread(8.4, OTHERS[2])]


def test_nothing_is_in_doubt_where_every_clip_has_its_words() -> None:
    assert heard(*four_clips(spread(2.8, SPOKEN)))[1] == set()


def test_a_clip_without_a_word_and_its_neighbours_are_in_doubt() -> None:
    assert heard(*four_clips([]))[1] == {0, 1, 2}


def test_a_clip_with_more_words_than_can_be_said_is_in_doubt() -> None:
    many = [word(f" word{place}", 2.9 + place * 0.05, 2.95 + place * 0.05) for place in range(30)]
    assert heard(*four_clips(many))[1] == {0, 1, 2}


def test_an_improbable_clip_is_in_doubt_alone() -> None:
    assert heard(*four_clips(spread(2.8, SPOKEN, logprob=-3.0)))[1] == {1}


def test_a_word_over_the_sound_of_two_clips_puts_both_in_doubt() -> None:
    clips, words = four_clips(spread(2.8, SPOKEN))
    words[3] = word(" leave", 1.4, 3.4)
    assert heard(clips, words)[1] == {0, 1}


def test_a_text_that_goes_round_in_circles_puts_the_whole_window_in_doubt() -> None:
    clips, words = four_clips(spread(2.8, [" nine,"] * 4))
    assert heard(clips, words)[1] == set()
    looped = [word(" nine,", 5.7 + place * 0.01, 5.71 + place * 0.01) for place in range(120)]
    assert heard(clips, [*words[:8], *looped, *words[12:]])[1] == {0, 1, 2, 3}


def test_a_window_in_which_nothing_was_heard_is_in_doubt_whole() -> None:
    clips = [tone(2.0), tone(2.0)]
    shares, doubtful = heard(clips, [])
    assert [share.text for share in shares] == ["", ""]
    assert doubtful == {0, 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("Seventeen, no, eighteen days ago. Low bush whipped him in the face and left no sting.", False),
        (
            " 6, 6, 6, 4, 8, 3, 6, 0, 0, 4, 3, 9, 4, 0, 0, 3, 7, 3, 2, 0, 7, 8, 6, 5, 4, 3, 2, 0, 2, 1, 8, 0, 7, 6,",
            False,
        ),
        (" 9," * 100, True),
        ("谢谢观看" * 40, True),
    ],
)
def test_loops(text: str, expected: bool) -> None:
    assert loops(text) is expected


def test_a_path_that_begins_before_the_audio_gives_words_that_begin_with_it() -> None:
    """CTranslate2 gave step -1 for a model with random weights: no span begins there, and the unit failed."""
    tokenizer = SimpleNamespace(eot=9, split_to_word_tokens=lambda tokens: ([" a", " b", ""], [[1], [2, 3], [9]]))
    for steps in ([-1, -1, -1, -1], [-1, 0, 4, 6], [0, 2, 2, 5]):
        path = SimpleNamespace(alignments=list(enumerate(steps)), text_token_probs=[0.5, 0.5, 0.5])
        first, second = _timed_words(tokenizer, [1, 2, 3], path)
        assert 0 <= first.span.start <= first.span.end <= second.span.start <= second.span.end
