"""Cutting speech into clips: nothing is lost, every clip is 2-30 s, and cuts fall where it is quiet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.speech.segments import CutSettings, Cutting, cut, quiet_point

NOISE = (np.random.default_rng(1).normal(size=30 * 60 * SAMPLE_RATE) * 1000).astype(np.int16)


def seconds(*spans: tuple[float, float]) -> list[Span]:
    return [Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in spans]


def check(cutting: Cutting, speech: list[Span], total: int, rules: CutSettings) -> None:
    """What holds for any input: the lists tile the array, clips keep the limits, and speech is counted once."""
    clips, too_short = [span for span, _ in cutting.clips], [span for span, _ in cutting.too_short]
    assert clips == sorted(clips)
    assert too_short == sorted(too_short)
    assert cutting.non_speech == sorted(cutting.non_speech)
    tiles = sorted(clips + too_short + cutting.non_speech)
    assert all(tile.samples > 0 for tile in tiles)
    assert [0, *(tile.end for tile in tiles)] == [*(tile.start for tile in tiles), total]
    for clip in clips:
        assert rules.min_seconds <= clip.seconds <= rules.max_seconds
    for span, count in [*cutting.clips, *cutting.too_short]:
        assert count == sum(part.samples for one in speech if (part := span & one))
    for quiet in cutting.non_speech:
        assert not any(quiet & span for span in speech)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Speech of every grain, from one sample to minutes, with pauses from none to long, at the edges or not."""
    grain = st.one_of(
        st.integers(1, 50), st.integers(100, 3000), st.integers(8_000, 80_000), st.integers(80_000, 2_000_000)
    )
    spans, at = [], draw(st.one_of(st.just(0), grain))
    for length, pause in draw(st.lists(st.tuples(grain, st.one_of(st.just(0), grain)), max_size=25)):
        spans.append(Span(at, at + length))
        at += length + pause
    end = spans[-1].end if spans else 0
    total = min(draw(st.sampled_from([end, at])), len(NOISE))
    return [span for span in spans if span.end <= total], total


rules = st.builds(
    lambda low, factor, target, gap, rescue, pad: CutSettings(
        min_seconds=low,
        max_seconds=low * factor,
        target_seconds=min(low + target * (low * factor - low), low * factor),
        max_gap_seconds=gap,
        rescue_gap_seconds=gap + rescue,
        pad_seconds=pad,
    ),
    low=st.sampled_from([0.2, 0.5, 2.0]),
    factor=st.sampled_from([2, 3.7, 14]),
    target=st.floats(0, 1),
    gap=st.floats(0, 3),
    rescue=st.floats(0, 3),
    pad=st.sampled_from([0.0, 0.1, 0.2, 5.0]),
)


@settings(max_examples=120, deadline=None)
@given(recordings())
def test_clips_and_the_rest_tile_the_recording(recording: tuple[list[Span], int]) -> None:
    speech, total = recording
    check(cut(speech, NOISE[:total]), speech, total, CutSettings())


@settings(max_examples=80, deadline=None)
@given(recordings(), rules)
def test_tiling_holds_for_any_settings(recording: tuple[list[Span], int], one: CutSettings) -> None:
    speech, total = recording
    # the limits are whole samples, so a limit that is no whole number of them may be missed by half a sample
    half = 0.5 / SAMPLE_RATE
    low, high = one.min_seconds - half, one.max_seconds + half
    loose = CutSettings(min_seconds=low, max_seconds=high, target_seconds=high)
    check(cut(speech, NOISE[:total], one), speech, total, loose)


def brute_force(speech: list[Span], rule: CutSettings) -> int:
    """Least speech, in samples, that must be lost: every way of grouping the islands, without padding."""

    def lost(group: list[Span]) -> int:
        length = group[-1].end - group[0].start
        gaps = [right.start - left.end for left, right in itertools.pairwise(group)]
        fits = rule.min_seconds * SAMPLE_RATE <= length <= rule.max_seconds * SAMPLE_RATE
        fits = fits and all(gap <= rule.rescue_gap_seconds * SAMPLE_RATE for gap in gaps)
        return 0 if fits else sum(span.samples for span in group) if len(group) == 1 else 10**12

    best = 10**12
    for cuts in itertools.product([False, True], repeat=len(speech) - 1):
        groups, group = [], [speech[0]]
        for span, is_cut in zip(speech[1:], cuts, strict=True):
            if is_cut:
                groups.append(group)
                group = []
            group.append(span)
        best = min(best, sum(lost(group) for group in [*groups, group]))
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(800, 60_000), st.integers(800, 60_000)), min_size=1, max_size=8))
def test_no_grouping_loses_less_speech(parts: list[tuple[int, int]]) -> None:
    rule = CutSettings(pad_seconds=0.0, max_seconds=8.0, target_seconds=5.0)
    speech, at = [], 0
    for length, pause in parts:
        speech.append(Span(at, at + length))
        at += length + pause
    cutting = cut(speech, NOISE[:at], rule)
    assert sum(count for _, count in cutting.too_short) == brute_force(speech, rule)


def test_29_minutes_of_unbroken_speech_become_clips_without_loss() -> None:
    total = 29 * 60 * SAMPLE_RATE
    cutting = cut([Span(0, total)], NOISE[:total])
    check(cutting, [Span(0, total)], total, CutSettings())
    assert not cutting.too_short
    assert not cutting.non_speech
    assert 29 * 2 <= len(cutting.clips) <= 29 * 4


def test_islands_of_10_ms_keep_the_invariants_and_finish() -> None:
    total = 10 * 60 * SAMPLE_RATE
    speech = [Span(start, start + 160) for start in range(0, total - 160, 320)]
    cutting = cut(speech, NOISE[:total])
    check_counts = sum(count for _, count in cutting.clips) + sum(count for _, count in cutting.too_short)
    assert check_counts == sum(span.samples for span in speech)
    assert all(2 <= span.seconds <= 30 for span, _ in cutting.clips)


def test_no_speech_is_all_non_speech_and_nothing_is_nothing() -> None:
    assert cut([], NOISE[:1000]) == Cutting([], [], [Span(0, 1000)])
    assert cut([], NOISE[:0]) == Cutting([], [], [])


def test_a_lonely_island_is_too_short_and_a_near_one_is_saved() -> None:
    total = 20 * SAMPLE_RATE
    lonely = cut(seconds((1, 5), (10, 11)), NOISE[:total])
    assert [count for _, count in lonely.too_short] == [SAMPLE_RATE]
    near = cut(seconds((1, 5), (6.4, 7.4)), NOISE[:total])
    assert not near.too_short
    assert [count for _, count in near.clips] == [5 * SAMPLE_RATE]


def test_a_short_island_joins_the_nearer_neighbour() -> None:
    cutting = cut(seconds((1, 5), (6.5, 7.5), (8.6, 12)), NOISE[: 13 * SAMPLE_RATE])
    assert [count / SAMPLE_RATE for _, count in cutting.clips] == pytest.approx([4, 4.4])


def test_a_pause_is_kept_only_when_it_saves_a_clip() -> None:
    speech = seconds((0, 4), (4.5, 8), (10.5, 14))
    cutting = cut(speech, NOISE[: 14 * SAMPLE_RATE], CutSettings(max_gap_seconds=1.0))
    assert [count / SAMPLE_RATE for _, count in cutting.clips] == pytest.approx([7.5, 3.5])


def test_borders_fall_into_the_widest_pauses_near_the_target() -> None:
    speech = seconds((0, 5), (5.2, 10), (10.6, 15), (15.2, 20))
    cutting = cut(speech, NOISE[: 20 * SAMPLE_RATE], CutSettings(target_seconds=10.0))
    assert [count / SAMPLE_RATE for _, count in cutting.clips] == pytest.approx([9.8, 9.2])


def test_over_long_speech_is_cut_in_its_dip() -> None:
    pcm = NOISE[: 40 * SAMPLE_RATE].copy()
    dip = Span(round(21.3 * SAMPLE_RATE), round(21.5 * SAMPLE_RATE))
    pcm[dip.start : dip.end] //= 100
    cutting = cut([Span(0, len(pcm))], pcm)
    assert len(cutting.clips) == 2
    assert dip.start < cutting.clips[0][0].end < dip.end


def test_padding_meets_in_the_quietest_part_of_a_narrow_pause() -> None:
    pcm = NOISE[: 20 * SAMPLE_RATE].copy()
    pcm[round(10.2 * SAMPLE_RATE) : round(10.32 * SAMPLE_RATE)] = 0
    cutting = cut(seconds((0, 10), (10.35, 20)), pcm, CutSettings(target_seconds=10.0, max_gap_seconds=0.0))
    assert 10.2 < cutting.clips[0][0].end / SAMPLE_RATE < 10.32
    assert cutting.clips[0][0].end == cutting.clips[1][0].start


def test_the_same_input_cuts_the_same() -> None:
    speech = seconds((0.5, 40), (41, 41.5), (43, 75))
    assert cut(speech, NOISE[: 80 * SAMPLE_RATE]) == cut(list(speech), NOISE[: 80 * SAMPLE_RATE].copy())


@pytest.mark.parametrize(
    "speech",
    [[Span(0, 10), Span(5, 20)], [Span(20, 30), Span(0, 10)], [Span(0, 1001)]],
    ids=["overlap", "order", "outside"],
)
def test_spans_that_are_not_speech_of_this_array_are_a_bug(speech: list[Span]) -> None:
    with pytest.raises(ValueError, match="ordered, disjoint and inside"):
        cut(speech, NOISE[:1000])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"min_seconds": 20.0}, r"cut\.max_seconds=30.0: must be at least twice cut\.min_seconds=20.0"),
        ({"min_seconds": 0.0}, r"cut\.min_seconds=0.0: must be at least 0.1"),
        ({"target_seconds": 31.0}, r"cut\.target_seconds=31.0: must lie between"),
        ({"max_gap_seconds": 4.0}, r"cut\.max_gap_seconds=4.0: must be at most cut\.rescue_gap_seconds"),
        ({"pad_seconds": -0.1}, r"cut\.pad_seconds=-0.1: must be at least 0"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused_in_one_line(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        CutSettings(**wrong)
    assert "\n" not in str(caught.value)


# --- the quiet point --------------------------------------------------------------------------------------------------


def test_the_quiet_point_is_the_middle_of_the_quietest_tenth() -> None:
    pcm = NOISE[: 10 * SAMPLE_RATE].copy()
    pcm[50_000:53_200] = 0
    assert 50_800 <= quiet_point(pcm, 80_000, 40_000) <= 52_400


def test_an_offset_is_not_loudness() -> None:
    pcm = NOISE[: 10 * SAMPLE_RATE].copy()
    pcm[50_000:52_000] = 9_000  # a steady level, above all the noise around it
    assert 50_800 <= quiet_point(pcm, 80_000, 40_000) <= 51_200


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 160_000), st.integers(0, 100_000), st.integers(0, 300_000), st.integers(0, 300_000))
def test_two_holders_of_the_window_find_the_same_point(centre: int, radius: int, before: int, after: int) -> None:
    """Neighbouring units decode different stretches of a recording; both hold the window around their common edge."""
    at = 1_000_000 + centre
    left = at - radius - before
    whole = quiet_point(NOISE[:3_000_000], at, radius)
    part = quiet_point(NOISE[left : at + radius + after], at - left, radius) + left
    assert whole == part
    assert abs(whole - at) <= radius


@pytest.mark.parametrize(("centre", "radius"), [(0, 0), (50, 10), (99, 10_000), (100, 5), (500, 20), (-5, 3)])
def test_a_window_too_small_or_outside_still_answers_inside_the_array(centre: int, radius: int) -> None:
    assert 0 <= quiet_point(NOISE[:100], centre, radius) <= 100


def test_of_equally_quiet_points_the_nearest_wins() -> None:
    assert abs(quiet_point(np.zeros(320_000, np.int16), 100_000, 50_000) - 100_000) <= 80
