"""Truth files: which recording a line is about, what text a clip holds, and what is wrong with a bad file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.clip import Span
from operators.errors import UserError
from pipeline.score.truth import Tolerance, align, read_truth
from tests.support.truths import SECOND, truth_bytes, truth_line

Seconds = tuple[float, float]


def placed(*segments: tuple[float, float, str | None], clip: Seconds, quiet: Seconds | None = None) -> Any:
    recording = read_truth(truth_bytes(truth_line("r", "en", *segments)), "t").find("r", "r")
    assert recording is not None
    spans = [Span(int(a * SECOND), int(b * SECOND)) for a, b in (clip, quiet or clip)]
    return align(recording, *spans, Tolerance())


def test_a_clip_holds_the_segments_wholly_inside_it() -> None:
    three = (1, 3, "one"), (4, 6, "two"), (7, 9, "three")
    assert placed(*three, clip=(0, 10)) == ("scored", "one two three")
    assert placed(*three, clip=(3.5, 6.5)) == ("scored", "two")
    assert placed(*three, clip=(4.25, 5.75)) == ("scored", "two"), "edges off by less than the tolerance"
    assert placed(*three, clip=(3.5, 7.25)) == ("scored", "two"), "a neighbour that reaches in by less"
    assert placed(*three, clip=(0, 5)) == ("cut", "")
    assert placed(*three, clip=(4.4, 6.5)) == ("cut", "")
    assert placed(*three, clip=(9.5, 12)) == ("scored", ""), "nobody speaks: whatever an engine writes is wrong"


def test_a_segment_may_stick_out_further_where_no_clip_took_the_rest() -> None:
    sentence = (1.0, 5.0, "a sentence with silence at its edges")
    assert placed(sentence, clip=(1.7, 4.3)) == ("cut", "")
    assert placed(sentence, clip=(1.7, 4.3), quiet=(0, 9))[0] == "scored"
    assert placed(sentence, clip=(1.7, 4.3), quiet=(0, 4.3)) == ("cut", ""), "another clip begins at 4.3 s"
    assert placed(sentence, clip=(1.9, 4.3), quiet=(0, 9)) == ("cut", ""), "0.9 s is more than silence at an edge"


def test_untranscribed_and_overlapping_segments_cannot_be_scored() -> None:
    assert placed((1, 3, "one"), (4, 6, None), clip=(0, 10)) == ("no_text", "")
    assert placed((1, 3, "one"), (4, 6, None), clip=(0, 5)) == ("no_text", "")
    assert placed((1, 3, "one"), (4, 6, None), clip=(0, 4.2)) == ("scored", "one")
    assert placed((1, 3, "one"), (4, 6, ""), clip=(0, 10)) == ("scored", "one "), "empty text: known to hold no words"
    assert placed((1, 5, "one"), (2, 3, "two"), (4, 6, "three"), clip=(0, 10)) == ("overlapping", "")
    assert placed((1, 3.2, "one"), (3, 5, "two"), clip=(0, 10)) == ("scored", "one two")


def test_a_word_shorter_than_the_tolerance_belongs_where_its_middle_is() -> None:
    assert placed((3.9, 4.15, "hm"), clip=(4, 8), quiet=(0, 8)) == ("scored", "hm")
    assert placed((3.8, 4.1, "hm"), clip=(4, 8), quiet=(0, 8)) == ("scored", "")


times = st.integers(0, 120).map(lambda tenths: tenths / 10)
spans = st.tuples(times, times).map(sorted).filter(lambda pair: pair[0] < pair[1])


@given(st.lists(spans, max_size=8), spans)
def test_alignment_equals_a_plain_loop(segments: list[list[float]], where: list[float]) -> None:
    found = placed(*((a, b, f"w{at}") for at, (a, b) in enumerate(segments)), clip=(where[0], where[1]))
    begin, end = (int(edge * SECOND) for edge in where)
    reach = round(0.3 * SECOND)
    own, cut = [], False
    for at, (a, b) in enumerate(segments):
        start, stop = round(a * SECOND), round(b * SECOND)
        inside = start >= begin - reach and stop <= end + reach
        shared = min(stop, end) - max(start, begin)
        if shared > reach or (shared > 0 and inside and begin <= (start + stop) // 2 < end):
            own.append((start, stop, f"w{at}"))
            cut |= not inside
    own.sort(key=lambda each: each[:2])
    clash = any(one[1] - two[0] > reach for i, one in enumerate(own) for two in own[i + 1 :])
    expected = "cut" if cut else "overlapping" if clash else "scored"
    assert found == (expected, " ".join(text for *_, text in own) if expected == "scored" else "")


@pytest.mark.parametrize(
    ("line", "recording_id", "uri"),
    [
        ({"recording_id": "talk-7"}, "talk-7", "s3://bucket/x.mp3"),
        ({"recording_id": "talk", "path": "live/talk.mp3"}, "live/talk.mp3", "/data/crawl/live/talk.mp3"),
        ({"recording_id": "talk", "path": "live/talk.mp3"}, "17", "s3://bucket/crawl/live/talk.mp3"),
        ({"path": "live/talk #1.mp3"}, "17", "/data/crawl.tar#live/talk #1.mp3"),
    ],
)
def test_a_recording_is_found_by_id_or_path(line: dict[str, Any], recording_id: str, uri: str) -> None:
    truth = read_truth(truth_bytes(line | {"segments": []}), "t")
    assert truth.find(recording_id, uri) is not None
    assert truth.find(recording_id + "x", uri + "x") is None


def test_a_segment_without_words_may_have_no_length() -> None:
    assert placed((1, 1, ""), (1, 1, None), (1, 2, "one"), clip=(0, 3)) == ("scored", "one")


def test_one_truth_for_two_recordings_is_refused() -> None:
    truth = read_truth(truth_bytes({"path": "talk.mp3", "segments": []}), "t")
    assert truth.find("a/talk.mp3", "/x/a/talk.mp3") is not None
    with pytest.raises(UserError, match=r"talk.mp3' fits two recordings of the run, 'a/talk.mp3' and 'b/talk.mp3'"):
        truth.find("b/talk.mp3", "/x/b/talk.mp3")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t holds no truth"),
        (b"{]\n", r"t:1 is no JSON \(Expecting property name"),
        (b"output: runs/first\n", r"t:1 is no JSON \(Expecting value, column 1\): expected one object per recording"),
        (b"\n[]\n", "t:2: expected a JSON object"),
        (b"\xff\n", "t:1: "),
        (b"[" * 100_000, "t:1: "),
        (truth_bytes({"segments": []}), "t:1: no recording_id and no path"),
        (truth_bytes({"recording_id": "a"}), "t:1: no list of segments"),
        (truth_bytes(truth_line("a", "en"), truth_line("a", "en")), "t:2: 'a' came before"),
        (truth_bytes(truth_line("a", "en", (3, 1, "x"))), "t:1: a segment runs from start_s to end_s"),
        (truth_bytes(truth_line("a", "en", (-1, 1, "x"))), "t:1: a segment runs from start_s to end_s"),
        (truth_bytes(truth_line("a", "en", (0, float("inf"), "x"))), "t:1: start_s and end_s are seconds"),
        (truth_bytes(truth_line("a", "en", (0, 10**400, "x"))), r"t:1: start_s and end_s are seconds, not 10{39}$"),
        (truth_bytes(truth_line("a", "en", (0, 1e308, "x"))), "t:1: start_s and end_s are seconds"),
        (truth_bytes(truth_line("a", "en", (1, 1, "x"))), "t:1: the segment at 1 s has a text and no length"),
        (truth_bytes(truth_line("a", "en", (1, 1.00001, "x"))), "t:1: the segment at 1 s has a text and no length"),
        (truth_bytes({"path": "a", "segments": [{"start_s": "0", "end_s": 1}]}), "t:1: start_s and end_s are seconds"),
        (truth_bytes({"path": "a", "segments": [{"start_s": 0, "end_s": 1, "text": 5}]}), ("t:1: the text of the "
            "segment")),
        (truth_bytes({"path": "a", "segments": ["x"]}), "t:1: a segment is a JSON object"),
    ],
)  # fmt: skip
def test_a_bad_truth_file_is_one_clear_line(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_truth(data, "t")
    assert "\n" not in str(caught.value)
