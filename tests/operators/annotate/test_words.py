"""Word times: agreement, edges, captions, and pocketsphinx on real English."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.align.aligners import PocketsphinxAligner
from operators.align.captions import ctm, vtt
from operators.annotate.annotator import Heard
from operators.annotate.words import Shifts, agreed_words, shifts, spread, words_of
from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE, Word


def words(*timed: tuple[str, float, float]) -> tuple[Word, ...]:
    return tuple(Word(text=text, start=round(a * SAMPLE_RATE), end=round(b * SAMPLE_RATE)) for text, a, b in timed)


def test_a_word_is_a_character_or_stands_between_spaces() -> None:
    assert words_of("hello, 你好 <event:dog> it's") == ["hello", "你", "好", "it's"]


def test_words_are_kept_where_two_agree_and_the_finest_of_them_gives_the_times() -> None:
    fine = words(("a", 0.0, 0.5), ("b", 0.5, 1.0), ("c", 1.0, 1.4), ("d", 2.0, 2.5), ("e", 2.5, 2.8))
    coarse = words(("a", 0.1, 0.5), ("b", 0.5, 1.25), ("c", 3.0, 3.4), ("d", 2.15, 2.65), ("e", 2.6, 2.8))
    assert agreed_words([fine, coarse]) == (fine[3], fine[4])
    assert agreed_words([fine, coarse], 0.3) == (fine[0], fine[1], fine[3], fine[4])
    # Of three, two that agree are enough; the one that stands alone gives nothing.
    third = words(("a", 5.0, 5.5), ("b", 0.5, 1.2), ("c", 3.1, 3.5), ("d", 9.0, 9.5), ("e", 9.5, 9.9))
    assert agreed_words([fine, coarse, third]) == (coarse[1], coarse[2], fine[3], fine[4])


def test_a_word_on_which_two_agree_amid_words_on_which_they_differ_is_chance() -> None:
    one = words(("a", 0.0, 0.5), ("b", 0.5, 1.0), ("c", 1.0, 1.4), ("d", 1.4, 1.9))
    other = words(("a", 0.0, 0.5), ("b", 0.9, 1.0), ("c", 1.0, 1.4), ("d", 1.8, 1.9))
    assert agreed_words([one, other]) == ()
    # Words that one of them could not place are passed over.
    assert agreed_words([one, (other[0], other[2])]) == (one[0], one[2])
    assert agreed_words([one[:1], other[:1]]) == one[:1], "a clip of one word has no word beside it"
    assert agreed_words([one, other[:1]]) == ()


def test_a_word_that_lasts_longer_than_it_can_be_spoken_is_left_out() -> None:
    said = words(("shop", 0.0, 1.3), ("antidisestablishmentarianism", 1.3, 3.5), ("now", 3.5, 3.8))
    assert agreed_words([said, said]) == said[1:]


def test_who_did_not_align_has_no_say() -> None:
    fine = words(("a", 0.0, 0.5))
    assert agreed_words([fine, None]) is agreed_words([None, None]) is agreed_words([]) is None
    assert agreed_words([fine, words(("a", 1.0, 1.5))]) == ()
    assert agreed_words([None, fine, fine]) == fine


def test_an_aligner_may_leave_words_out() -> None:
    whole = words(("the", 0.0, 0.1), ("cat", 0.1, 0.5), ("the", 0.5, 0.6), ("dog", 0.6, 1.0))
    assert agreed_words([(whole[0], whole[3]), whole]) == (whole[0], whole[3])
    assert agreed_words([whole, (whole[1], whole[3])]) == (whole[1], whole[3])
    assert agreed_words([whole, ()]) == ()


def test_shifts_are_those_of_a_plain_loop() -> None:
    pairs = [(0, 800), (1600, 1600), (16_000, 12_800), (0, 4000)]
    off = [1000 * abs(a - b) / SAMPLE_RATE for a, b in pairs]
    assert shifts(pairs) == Shifts(4, sum(off) / 4, 2 / 4, 3 / 4)
    assert shifts([]) == Shifts(0, 0, 0, 0)


def bursts(*spans: tuple[float, float], seconds: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    pcm = rng.normal(0, 5, round(seconds * SAMPLE_RATE))
    for start, end in spans:
        a, b = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
        pcm[a:b] += rng.normal(0, 3000, b - a)
    return pcm.astype(np.int16)


def test_words_reach_to_pauses_and_part_where_it_is_quietest() -> None:
    pcm = bursts((0.5, 0.98), (1.02, 1.5), (2.0, 2.6))  # a stop of 40 ms, and a pause
    cores = [(round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for a, b in ((0.7, 0.75), (1.2, 1.25), (2.2, 2.25))]
    edges = [edge / SAMPLE_RATE for span in spread(cores, pcm) for edge in span]
    assert edges == pytest.approx([0.5, 1.0, 1.0, 1.5, 2.0, 2.6], abs=0.035)
    assert spread([], pcm) == []


@given(st.lists(st.integers(0, 16_000), max_size=8), st.integers(1, 16_000))
def test_spread_words_hold_their_cores_in_order(places: list[int], length: int) -> None:
    pcm = np.random.default_rng(length).integers(-9, 9, length).astype(np.int16)
    at = sorted(min(place, length) for place in places)
    cores = list(zip(at[::2], at[1::2]))
    spans = spread(cores, pcm)
    assert all(start <= core[0] <= core[1] <= end for (start, end), core in zip(spans, cores, strict=True))
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= length)


def test_captions_are_what_players_and_scorers_read() -> None:
    said = words(("good", 0.25, 0.5), ("<b>", 0.5, 1.0), ("bye", 3600.0, 3600.5))
    assert vtt(said) == (
        "WEBVTT\n\n00:00:00.250 --> 00:00:01.000\ngood <00:00:00.500>&lt;b&gt;\n\n01:00:00.000 --> 01:00:00.500\nbye\n"
    )
    assert vtt(words(("你", 0.0, 0.2), ("好", 0.2, 0.4)), offset=SAMPLE_RATE).endswith(
        "00:00:01.000 --> 00:00:01.400\n你<00:00:01.200>好\n"
    )
    assert ctm(said[:1], "talk one", offset=SAMPLE_RATE) == "talk_one 1 1.250 0.250 good\n"
    long = words(*((f"w{i}", i * 0.3, i * 0.3 + 0.3) for i in range(30)))
    assert vtt(long).count("-->") == 3, "twelve words at most stand on the screen at once"


@pytest.fixture(scope="module")
def kathleen(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """One recording of the crawl, alone."""
    folder, name = tmp_path_factory.mktemp("one"), "crawl/audiobook/kathleen-s000.wav"
    subprocess.run(["tar", "xf", str(shared / "data/crawl-rest.tar"), "-C", str(folder), name], check=True)
    return decode(str(folder / name)).pcm


def test_pocketsphinx_places_the_words_of_english(kathleen: np.ndarray) -> None:
    """Two utterances whose edges are known; half a second of silence around them and longer between."""
    text = "i suppose you picked that lingo up among the indians philip thrust himself against it and enteredfoo"
    clip = Heard(pcm=kathleen[13_856:138_152], text=text, language="en-US")
    aligner = PocketsphinxAligner()
    first, foreign, again, empty = aligner.align(
        [clip, Heard(pcm=clip.pcm, text="你好", language="zh"), clip, Heard(pcm=clip.pcm, text="é", language="en")]
    )
    assert foreign is None
    assert first == again, "a clip's times depend on no clip before it"
    assert empty is not None, "an accent is no reason to give up"
    assert first is not None
    assert [word.text for word in first] == text.split(), "a word that no dictionary has is spelt by rule"
    times = [word.start / SAMPLE_RATE for word in first], [word.end / SAMPLE_RATE for word in first]
    assert times[0][0] == pytest.approx(0.5, abs=0.15)
    assert times[1][9] == pytest.approx(3.4, abs=0.15)
    assert times[0][10] == pytest.approx(4.9, abs=0.15)
    assert all(start < end for start, end in zip(*times))
    assert list(times[0]) == sorted(times[0])
    none = [Heard(pcm=np.zeros(samples, np.int16), text=text, language="en") for samples in (0, 400, 4000)]
    assert aligner.align([*none, clip]) == [None, None, None, first], "no path fits, and the next clip is as before"
    aligner.close()
