"""Label quality: numbers worked out by hand, alignment and curves against plain loops, the command, the page."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.rover import Rules, error_rate
from operators.text import Normaliser, evaluation_form, tokens
from pipeline.__main__ import main
from pipeline.report import Thresholds
from pipeline.score import Score, headline, render_terminal, summarise
from pipeline.score_counts import SCORE_COLUMNS, Question, count
from pipeline.score_figures import CurvePoint, Figure, Scope
from pipeline.score_page import render_page
from pipeline.truth import Slack, align, read_truth
from tests import fast_engines
from tests.browser import Browser
from tests.pipeline.synthetic_run import PROFILES, clip_row, make_run, rejected, stretch_row, table

SECOND = SAMPLE_RATE


def truth_line(recording: str, language: str | None, *segments: tuple[float, float, str | None], **more: Any) -> dict[str, Any]:
    listed = [{"start_s": a, "end_s": b} | ({} if text is None else {"text": text}) for a, b, text in segments]
    return {"recording_id": recording, "language": language, "segments": listed} | more


def truth_bytes(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def heard(start: float, end: float, language: str, asr: str, copilot: str | None = None, **columns: Any) -> dict[str, Any]:
    """The columns of a clip that engines have heard, as keywords for `clip`."""
    both = [{"engine": "whisper", "text": asr, "language": language}]
    measured: dict[str, Any] = {}
    if copilot is not None:
        both.append({"engine": f"paraformer-{language}", "text": copilot})
        norms = [Normaliser().spoken(text, language) for text in (asr, copilot)]
        measured = {"asr_norm": norms[0], "copilot_norm": norms[1], "reference": "asr", "wer": 0.0, "per": 0.0}
    return {
        "start": int(start * SECOND), "end": int(end * SECOND), "language": language, "hypotheses": both,
    } | measured | columns  # fmt: skip


def clip(domain: str, recording: str, **columns: Any) -> dict[str, Any]:
    return clip_row(domain, recording, columns.pop("start"), columns.pop("end"), **columns)


def scored(rows: list[dict[str, Any]], truth: bytes, rules: Rules | None = None, **asked: Any) -> Score:
    rules = rules or Rules()
    question = Question(**asked)
    tallied = count([table(rows)], read_truth(truth, "truth.jsonl"), question, rules, Normaliser())
    return summarise(tallied, question, Thresholds(max_wer=rules.max_wer, max_per=rules.max_per, drop_when=rules.drop_when))


def near(percent: float) -> Any:
    return pytest.approx(percent, abs=1e-9)


TRUTH = truth_bytes(
    truth_line("zh-1", "zh", (0, 4, "今天天气很好。"), (5, 9, "我们去公园"), (10, 14, "大家安静")),
    truth_line("en-1", "en", (0, 4, "Good morning, everyone."), (5, 9, "turn left at the lights")),
)
ROWS = [
    clip("book", "zh-1", **heard(0, 4, "zh", "今天天气很好", "今天天气很好"), label="今天天气很好"),
    clip("book", "zh-1", **heard(5, 9, "zh", "我们去公元", "我们去公元"), label="我们去公元"),
    clip("book", "zh-1", **heard(10, 14, "zh", "大家安静", "大家安全", wer=25.0, per=20.0), **rejected("rover", "wer_and_per")),
    clip("live", "en-1", **heard(0, 4, "en", "good morning everyone", "good morning every one", wer=66.7, per=0.0),
         **rejected("rover", "wer")),
    clip("live", "en-1", **heard(5, 9, "en", "Turn left at the light.", "turn left at the lights", wer=20.0, per=7.0),
         **rejected("rover", "wer_and_per")),
    clip("live", "en-1", **heard(10, 14, "en", "thank you"), **rejected("transcribe", "stock_phrase")),
]  # fmt: skip
"""Six clips whose every number is worked out in the tests below."""


@pytest.fixture(scope="module")
def by_hand() -> Score:
    return scored(ROWS, TRUTH)


def test_error_rates_by_hand(by_hand: Score) -> None:
    label, asr, copilot = by_hand.total.systems
    # Characters: 6 + 5 + 4 Chinese, 19 + 19 English, 0 where nobody speaks. "thank you" is 8 insertions, and 2 words.
    assert (asr.all.clips, asr.all.characters, asr.all.tokens) == (6, 53, 23)
    assert asr.all.cer.value == near(100 * (1 + 1 + 8) / 53)
    assert asr.all.wer.value == near(100 * (1 + 2) / 8), "over the English words alone"
    assert asr.all.mer.value == near(100 * (1 + 1 + 2) / 23)
    assert copilot.all.clips == 5, "the rejected clip never reached it"
    assert copilot.all.cer.value == near(100 * 2 / 53), "every one: a word error without a character error"
    assert copilot.all.wer.value == near(100 * 2 / 8)
    assert label.kept.cer.value == near(100 * 1 / 11)
    assert label.kept.wer.value is None, "no English label was kept"
    assert asr.kept.cer.value == near(100 * 1 / 11)
    assert asr.rejected.cer.value == near(100 * 9 / 42)
    # Whose label a rejected clip would have had: the copilot's for zh (安全), the ASR's elsewhere (light).
    assert (label.rejected.clips, label.rejected.mer.value) == (3, near(100 * 2 / 12))
    assert [share.value for share in asr.all.wrong] == [near(50), near(50), near(50)]
    assert [share.value for share in copilot.all.wrong] == [near(60), near(60), near(60)]


def test_domains_and_languages_are_apart(by_hand: Score) -> None:
    assert [scope.name for scope in by_hand.domains] == ["book", "live"]
    book, live = by_hand.domains
    assert (book.systems[1].all.cer.value, live.systems[1].all.cer.value) == (near(100 / 15), near(100 * 9 / 38))
    assert (book.systems[1].all.wer.value, live.systems[1].all.wer.value) == (None, near(100 * 3 / 8))
    assert [(scope.name, scope.recordings) for scope in by_hand.languages] == [("en", 1), ("zh", 1)]
    assert book.better == "asr"
    assert live.better == by_hand.total.better == "copilot"


def test_joint_errors_by_hand(by_hand: Score) -> None:
    joint = by_hand.total.joint[0]
    # Of five clips: the ASR is wrong in 公元 and light, the copilot in 公元, 安全 and every one; together in 公元.
    assert (joint.limit, joint.clips) == (0.0, 5)
    assert (joint.asr_wrong.value, joint.copilot_wrong.value) == (near(40), near(60))
    assert (joint.both_wrong.value, joint.both_wrong_alike.value) == (near(20), near(20))
    assert joint.if_independent.value == near(24)


def test_the_filter_by_hand(by_hand: Score) -> None:
    exact = by_hand.total.filter[0]
    # Right labels: 今天天气很好, kept, and good morning everyone, rejected for the copilot's spelling.
    assert (exact.clips, exact.kept) == (5, 2)
    assert (exact.right_before.value, exact.precision.value, exact.recall.value) == (near(40), near(50), near(50))
    loose = scored(ROWS, TRUTH, limits=(20.0, 25.0)).total
    # 20 %: also 公元 (1 of 5, kept) and light (1 of 5); 25 %: 安全 (1 of 4) as well.
    assert [each.precision.value for each in loose.filter] == [near(100), near(100)]
    assert [each.recall.value for each in loose.filter] == [near(100 * 2 / 4), near(100 * 2 / 5)]
    assert (by_hand.total.undecided, by_hand.total.undecided_right[0].value) == (1, near(0))


def test_the_headline_compares_kept_labels_with_the_better_engine(by_hand: Score) -> None:
    assert by_hand.total.lower_by.value == pytest.approx((2 / 53) / (1 / 11))
    assert headline(by_hand.total) == (
        "kept labels have 2.4× higher CER (9.09 %) than the better engine alone over all clips (copilot: 3.77 %)"
    )
    flawless = scored([ROWS[0], *ROWS[2:]], TRUTH).total
    assert headline(flawless).startswith("kept labels have no error in 6 characters, against the better engine alone")
    assert flawless.lower_by.value is None
    assert headline(scored(ROWS[2:], TRUTH).total) == "no kept label can be scored"


def test_labels_as_good_as_the_paper_hopes_read_so() -> None:
    rows, lines = [], []
    for at in range(10):
        said = "one two three four five six seven eight nine ten"
        wrong = said.replace("six", "sax")
        lines.append(truth_line(f"r{at}", "en", (0, 5, said), (6, 11, said)))
        label = wrong if at == 0 else said
        rows.append(clip("d", f"r{at}", **heard(0, 5, "en", label, label), label=label))
        away = rejected("rover", "wer_and_per")
        rows.append(clip("d", f"r{at}", **heard(6, 11, "en", wrong, "one two", wer=80.0, per=80.0), **away))
    total = scored(rows, truth_bytes(*lines)).total
    # 39 characters each: 11 of 780 wrong for the ASR, 1 of 390 among the labels.
    assert total.lower_by.value == pytest.approx(5.5)
    assert headline(total) == (
        "kept labels have 5.5× lower CER (0.26 %) than the better engine alone over all clips (asr: 1.41 %)"
    )


def test_spoken_forms_forgive_spelling() -> None:
    rows = [clip("d", "r", **heard(0, 4, "en", "I can't see 23", "i cannot see twenty three"), label="I can't see 23")]
    truth = truth_bytes(truth_line("r", "en", (0, 4, "I cannot see twenty three")))
    assert scored(rows, truth).total.systems[0].kept.mer.value == near(100 * 3 / 5)
    assert scored(rows, truth, spoken=True).total.systems[0].kept.mer.value == 0


def test_intervals_are_drawn_by_recording() -> None:
    def run(*errors: int) -> Score:
        rows, lines = [], []
        for at, wrong in enumerate(errors):
            text = "x" * wrong + "a" * (10 - wrong)
            rows += [clip("d", f"r{at}", **heard(s, s + 4, "en", text, text), label=text) for s in (0, 10, 20)]
            lines.append(truth_line(f"r{at}", "en", *((s, s + 4, "a" * 10) for s in (0, 10, 20))))
        return scored(rows, truth_bytes(*lines))

    assert run(1, 1, 1, 1).total.systems[1].all.cer == Figure(10.0, 10.0, 10.0), "recordings that are alike leave no doubt"
    # Of two recordings the same one is drawn twice in a quarter of the draws: the interval is as wide as the two.
    assert run(0, 2).total.systems[1].all.cer == Figure(10.0, 0.0, 20.0)
    assert run(2).total.systems[1].all.cer == Figure(20.0, None, None), "one recording says nothing about others"
    spread = run(*range(10)).total.systems[1].all.cer
    # The mean of ten uniform draws of 0, 10, ... 90 % has a standard deviation of 28.7 / sqrt(10) = 9.1.
    assert spread.value == near(45)
    assert spread.low == pytest.approx(45 - 1.96 * 9.1, abs=3)
    assert spread.high == pytest.approx(45 + 1.96 * 9.1, abs=3)


# ---- which text a clip holds


Seconds = tuple[float, float]


def placed(*segments: tuple[float, float, str | None], clip: Seconds, quiet: Seconds | None = None) -> Any:
    recording = read_truth(truth_bytes(truth_line("r", "en", *segments)), "t").find("r", "r")
    assert recording is not None
    spans = [Span(int(a * SECOND), int(b * SECOND)) for a, b in (clip, quiet or clip)]
    return align(recording, *spans, Slack())


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


def test_silence_is_what_the_ledger_calls_non_speech() -> None:
    said = truth_bytes(truth_line("r", "en", (1, 5, "hello there")))

    def placement(*around: dict[str, Any]) -> set[str]:
        row = clip("d", "r", **heard(1.6, 4.4, "en", "hello there", "hello there"), label="hello there")
        other = clip("d", "r", **heard(20, 24, "en", "bye", "bye"), label="bye")
        return {name for _, name in scored([*around, row, other], said).coverage}

    before, after = (0, int(1.6 * SECOND)), (int(4.4 * SECOND), 20 * SECOND)
    quiet = [stretch_row("d", "r", *span) for span in (before, after)]
    assert placement(*quiet) == {"scored"}
    assert placement(quiet[0]) == {"scored", "cut"}, "what comes after the clip is not known to be silence"
    short = clip_row("d", "r", *after, **rejected("segment", "too_short"))
    assert placement(quiet[0], short) == {"scored", "cut", "unheard"}


def test_every_clip_is_accounted_for_in_the_coverage() -> None:
    rows = [
        *ROWS,
        clip("other", "stranger", **heard(0, 3, "en", "who", "who"), label="who"),
        clip_row("book", "zh-1", 15 * SECOND, 16 * SECOND, **rejected("segment", "too_short")),
        clip("book", "zh-1", **heard(2, 7, "zh", "天气", "天气"), label="天气"),
    ]
    found = scored(rows, TRUTH)
    assert {key: clips for key, (clips, _) in found.coverage.items()} == {
        ("book", "scored"): 3, ("book", "unheard"): 1, ("book", "cut"): 1, ("live", "scored"): 3, ("other", "no_truth"): 1,
    }  # fmt: skip
    assert sum(samples for _, samples in found.coverage.values()) == sum(row["end"] - row["start"] for row in rows)
    assert found.unalignable == near(100 / 7)


# ---- which recording a line of truth is about


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


def test_one_truth_for_two_recordings_is_refused() -> None:
    truth = read_truth(truth_bytes({"path": "talk.mp3", "segments": []}), "t")
    assert truth.find("a/talk.mp3", "/x/a/talk.mp3") is not None
    with pytest.raises(UserError, match=r"talk.mp3' fits two recordings of the run, 'a/talk.mp3' and 'b/talk.mp3'"):
        truth.find("b/talk.mp3", "/x/b/talk.mp3")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t holds no truth"),
        (b"{]\n", "t:1: "),
        (b"\n[]\n", "t:2: expected a JSON object"),
        (b"\xff\n", "t:1: "),
        (b"[" * 100_000, "t:1: "),
        (truth_bytes({"segments": []}), "t:1: no recording_id and no path"),
        (truth_bytes({"recording_id": "a"}), "t:1: no list of segments"),
        (truth_bytes(truth_line("a", "en"), truth_line("a", "en")), "t:2: 'a' came before"),
        (truth_bytes(truth_line("a", "en", (3, 1, "x"))), "t:1: a segment runs from start_s to end_s"),
        (truth_bytes(truth_line("a", "en", (-1, 1, "x"))), "t:1: a segment runs from start_s to end_s"),
        (truth_bytes(truth_line("a", "en", (0, float("inf"), "x"))), "t:1: start_s and end_s are seconds"),
        (truth_bytes({"path": "a", "segments": [{"start_s": "0", "end_s": 1}]}), "t:1: start_s and end_s are seconds"),
        (truth_bytes({"path": "a", "segments": [{"start_s": 0, "end_s": 1, "text": 5}]}), "t:1: the text of the segment"),
        (truth_bytes({"path": "a", "segments": ["x"]}), "t:1: a segment is a JSON object"),
    ],
)  # fmt: skip
def test_a_bad_truth_file_is_one_clear_line(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_truth(data, "t")
    assert "\n" not in str(caught.value)


def test_truth_that_fits_nothing_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="none of the 1 recordings of the truth file is in the run"):
        scored(ROWS, truth_bytes(truth_line("elsewhere", "en", (0, 1, "x"))))
    with pytest.raises(UserError, match=r"no clip can be scored by this truth file \(6 no_text\)"):
        scored(ROWS, truth_bytes(truth_line("zh-1", "zh", (0, 99, None)), truth_line("en-1", "en", (0, 99, None))))
    with pytest.raises(UserError, match="percentages from 0 to below 100"):
        Question(limits=(100.0,))
    with pytest.raises(UserError, match="--silence is no less than --tolerance"):
        Slack(tolerance=10, silence=5)


# ---- a whole made-up run


@pytest.fixture(scope="module")
def crawl_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pa.Table], bytes]:
    """Ledgers of a made-up run, and a truth from which the engines differ in words of their own and in words they share."""
    profiles = {name: PROFILES[name] for name in ("newsread", "podcast", "live")}
    store = make_run(tmp_path_factory.mktemp("run"), profiles, recordings=3, audio=lambda samples: b"")
    draw = random.Random(5)
    segments: dict[str, list[dict[str, Any]]] = {}
    languages: dict[str, str] = {}
    ledgers = list(store.ledgers())
    for row in (row for ledger in ledgers for row in ledger.to_pylist() if row["hypotheses"]):
        heard_words = tokens(row["hypotheses"][0]["text"])
        said = [word + "儿" if draw.random() < 0.02 else word for word in heard_words]
        text = (" " if row["language"] == "en" else "").join(said)
        segments.setdefault(row["recording_id"], []).append(
            {"start_s": row["start"] / SECOND, "end_s": row["end"] / SECOND, "text": text}
        )
        languages[row["recording_id"]] = row["language"]
    lines = [{"recording_id": name, "language": languages[name], "segments": each} for name, each in segments.items()]
    return ledgers, truth_bytes(*lines)


def score_of(crawl_run: tuple[list[pa.Table], bytes], rules: Rules, **asked: Any) -> Score:
    ledgers, truth = crawl_run
    question = Question(**asked)
    tallied = count(ledgers, read_truth(truth, "t"), question, rules, Normaliser())
    return summarise(tallied, question, Thresholds(max_wer=rules.max_wer, max_per=rules.max_per, drop_when=rules.drop_when))


@pytest.fixture(scope="module")
def whole(crawl_run: tuple[list[pa.Table], bytes]) -> Score:
    return score_of(crawl_run, Rules())


def decided(crawl_run: tuple[list[pa.Table], bytes]) -> Iterator[tuple[dict[str, Any], float]]:
    """Clips that the rule decides, with the error rate of their label: the obvious loop."""
    ledgers, truth = crawl_run
    said = {
        (line["recording_id"], round(segment["start_s"] * SECOND)): segment["text"]
        for line in map(json.loads, truth.splitlines())
        for segment in line["segments"]
    }
    for row in (row for ledger in ledgers for row in ledger.to_pylist()):
        if row["outcome"] == "kept" or row["reason"] in ("wer", "per", "wer_and_per"):
            side = 1 if row["language"] == "zh" else 0
            label = row["label"] or row["hypotheses"][side]["text"]
            forms = [tokens(evaluation_form(text)) for text in (said[row["recording_id"], row["start"]], label)]
            yield row, error_rate(forms[0], forms[1])


@pytest.mark.parametrize("drop_when", ["either", "both"])
def test_curves_equal_a_plain_loop(crawl_run: tuple[list[pa.Table], bytes], drop_when: str) -> None:
    # 7.3 is no edge of any histogram: the run's own limits must be exact all the same.
    rules = Rules(max_wer=10.0, max_per=7.3, drop_when=drop_when)  # type: ignore[arg-type]
    found = score_of(crawl_run, rules)
    clips = list(decided(crawl_run))

    def slow(max_wer: float, max_per: float) -> tuple[float, float | None, float]:
        within = [
            (row, error)
            for row, error in clips
            if ((row["wer"] <= max_wer and row["per"] <= max_per) if drop_when == "either"
                else (row["wer"] <= max_wer or row["per"] <= max_per))
        ]  # fmt: skip
        right = sum(error == 0 for _, error in within)
        samples = sum(row["end"] - row["start"] for row, _ in within)
        return (
            100 * samples / sum(row["end"] - row["start"] for row, _ in clips),
            100 * right / len(within) if within else None,
            100 * right / sum(error == 0 for _, error in clips),
        )

    def check(points: tuple[CurvePoint, ...], at: Any) -> None:
        for point in points:
            limit = float("inf") if point.limit is None else point.limit
            assert (point.kept, point.precision[0], point.recall[0]) == pytest.approx(at(limit)), limit

    check(found.over_wer, lambda limit: slow(limit, 7.3))
    check(found.over_per, lambda limit: slow(10.0, limit))
    assert 7.3 in [point.limit for point in found.over_per]


def test_the_curve_goes_through_the_filter_of_the_run(whole: Score) -> None:
    point = next(point for point in whole.over_wer if point.limit == 10.0)
    for each, precision, recall in zip(whole.total.filter, point.precision, point.recall, strict=True):
        assert (precision, recall) == (pytest.approx(each.precision.value), pytest.approx(each.recall.value))
        assert each.precision.low is not None
        assert each.precision.low < each.precision.value < each.precision.high  # type: ignore[operator]
    assert point.cer == pytest.approx(whole.total.systems[0].kept.cer.value)
    recalls = [point.recall[0] or 0.0 for point in whole.over_wer]
    assert recalls == sorted(recalls)


def test_domains_add_up_to_the_total(whole: Score) -> None:
    def sums(scope: Scope) -> list[int]:
        rates = [each for system in scope.systems for each in (system.all, system.kept, system.rejected)]
        return [number for each in rates for number in (each.clips, each.characters, each.tokens)] + [scope.undecided]

    for parts in (whole.domains, whole.languages):
        assert [sum(column) for column in zip(*map(sums, parts), strict=True)] == sums(whole.total)


def test_the_order_of_ledgers_changes_nothing(crawl_run: tuple[list[pa.Table], bytes], whole: Score) -> None:
    ledgers, truth = crawl_run
    again = score_of((ledgers[::-1], truth), Rules())
    assert json.dumps(again.to_json()) == json.dumps(whole.to_json())
    assert render_page(again) == render_page(whole)


def test_only_the_named_columns_are_needed(crawl_run: tuple[list[pa.Table], bytes], whole: Score) -> None:
    ledgers, truth = crawl_run
    assert score_of(([ledger.select(SCORE_COLUMNS) for ledger in ledgers], truth), Rules()).total == whole.total


def test_a_vote_of_three_engines_scores_every_copilot() -> None:
    def three(start: float, *texts: str, **columns: Any) -> dict[str, Any]:
        row = heard(start, start + 4, "en", texts[0], texts[1], **columns)
        row["hypotheses"].append({"engine": "third", "text": texts[2]})
        return clip("d", "r", **row)

    rows = [
        three(0, "red green blue", "red green glue", "red grin blue", wer=33.0, per=11.0, **rejected("rover", "wer_and_per")),
        three(5, "one two", "one two", "one too", label="one two"),
        clip("d", "r", **heard(10, 14, "en", "three four", "three four"), label="three four"),
    ]
    found = scored(rows, truth_bytes(truth_line("r", "en", (0, 4, "red green blue"), (5, 9, "one two"), (10, 14, "three four"))))
    label, asr, *copilots = found.total.systems
    assert [(system.name, system.all.clips, system.all.mer.value) for system in (asr, *copilots)] == [
        ("asr", 3, 0.0), ("copilot", 3, near(100 / 7)), ("copilot 2", 2, near(100 * 2 / 5)),
    ]  # fmt: skip
    assert found.engines == (("whisper",), ("paraformer-en",), ("third",))
    assert label.rejected.mer.value == 0, "the vote of the three would have been right"
    assert [joint.copilot for joint in found.total.joint] == ["copilot"] * 3 + ["copilot 2"] * 3


# ---- the command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with engines that need no ears, and a truth file that says what its ASR said, but for one clip in ten."""
    folder = tmp_path_factory.mktemp("finished")
    fast_engines.write_crawl(folder / "crawl", 40, seed=3)
    config = folder / "empty.yaml"
    config.write_text("{}\n")
    run = folder / "run"
    settings = fast_engines.settings(str(run), str(folder / "crawl"), "execution.runner=local")
    assert main(["run", str(config), *settings]) == 0
    lines: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(clips_of(run)):
        line = lines.setdefault(row["recording_id"], {"path": row["recording_id"], "language": "en", "segments": []})
        text = row["hypotheses"][0]["text"] + (" indeed" if number % 10 == 0 else "")
        line["segments"].append({"start_s": row["start"] / SECOND, "end_s": row["end"] / SECOND, "text": text})
    truth = folder / "truth.jsonl"
    truth.write_bytes(truth_bytes(*lines.values()))
    return run, truth


def clips_of(run: Path) -> list[dict[str, Any]]:
    paths = sorted(run.glob("shards/*/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist() if row["hypotheses"]]


def test_the_command_writes_what_it_prints(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, truth = finished
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    printed = capsys.readouterr().out
    document = json.loads((run / "score.json").read_text())
    clips = clips_of(run)
    misheard = sum(row["hypotheses"][0]["text"] != row["hypotheses"][1]["text"] for row in clips)
    total = document["total"]
    asr = next(system for system in total["systems"] if system["name"] == "asr")
    assert asr["all"]["clips"] == len(clips)
    assert asr["all"]["wrong"][0]["value"] == pytest.approx(100 * len(range(0, len(clips), 10)) / len(clips))
    assert total["filter"][0]["kept"] == sum(row["outcome"] == "kept" for row in clips) == len(clips) - misheard
    assert document["headline"] in " ".join(printed.split())
    assert "Per domain" in printed
    assert "audiobook" in printed
    before = {name: (run / name).read_bytes() for name in ("score.json", "score.html")}
    assert main(["score", str(run), "--truth", str(truth)]) == 0
    assert before == {name: (run / name).read_bytes() for name in before}, "same run, same bytes"
    shown = {wrong["clip_id"] for wrong in document["wrong_labels"]}
    assert shown <= {row["clip_id"] for row in clips if row["outcome"] == "kept"}
    assert shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--truth", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--truth", "{truth}", "--right", "few"], "--right few: expected percentages"),
        (["--truth", "{truth}", "--right", "0,100"], "percentages from 0 to below 100"),
        (["--truth", "{truth}", "--tolerance", "2"], "--silence is no less than --tolerance"),
        (["--truth", "{truth}", "--tolerance", "nan"], "are seconds"),
        (["--truth", "{truth}", "--seed", "-1"], "--seed is a whole number from 0"),
        (["--truth", "{empty}"], "holds no truth"),
    ],
)
def test_user_errors_are_one_line(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run, truth = finished
    (tmp_path / "empty.jsonl").write_text("\n")
    places = {"{truth}": str(truth), "{empty}": str(tmp_path / "empty.jsonl")}
    assert main(["score", str(run), *(places.get(each, each) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path), "--truth", "x"]) == 2
    assert "is no run directory" in capsys.readouterr().err


# ---- the page and the terminal

ATTACKS = (
    "<img src=x onerror=\"document.title='pwned'\">",
    "</title></style><script>document.title='pwned'</script>",
    "\"' onload=alert(1) x=\"{{ 7*7 }}<!--\x1b[31m\u202e",
)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile() -> Score:
    """Domains, recordings, languages, engines and texts that attack the page."""
    rows, lines = [], []
    for attack in ATTACKS:
        lines.append(truth_line(attack, attack, (0, 4, f"said {attack}")))
        row = heard(0, 4, attack, attack, attack, label=attack)
        row["hypotheses"] = [each | {"engine": attack} for each in row["hypotheses"]]
        rows.append(clip(attack, attack, **row) | {"clip_id": attack})
    return scored(rows, truth_bytes(*lines))


def test_hostile_text_makes_no_element(hostile: Score) -> None:
    page = render_page(hostile).decode()
    elements = Elements(page)
    assert not [tag for tag, _ in elements.found if tag in ("script", "img", "iframe", "object", "a", "link", "base")]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    for attack in ATTACKS:
        assert attack.replace("\x1b", "") in elements.text.replace("\x1b", ""), "shown as the text that it is"


def test_hostile_text_reaches_no_terminal(hostile: Score) -> None:
    out = io.StringIO()
    Console(file=out, width=400, color_system=None).print(render_terminal(hostile))
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert "\\x1b[31m\\u202e" in out.getvalue()


def test_the_page_is_small_and_shows_every_number_of_the_headline(whole: Score) -> None:
    page = render_page(whole).decode()
    assert len(page) < 120_000
    text = " ".join(Elements(page).text.split())
    assert headline(whole.total)[1:] in text
    for scope in whole.domains:
        assert scope.name in text
    assert page.count("<svg") == 4


def test_a_browser_shows_the_page_without_complaint(whole: Score, hostile: Score, tmp_path: Path) -> None:
    with Browser() as browser:
        for name, found in (("whole", whole), ("hostile", hostile)):
            (tmp_path / f"{name}.html").write_bytes(render_page(found))
            browser.open(tmp_path / f"{name}.html", dark=name == "hostile")
            assert browser.errors == browser.dialogs == []
            assert browser.evaluate("document.title") == "Label quality"
            assert [url for url in browser.requests if not url.startswith("file:")] == []
            # Nothing of a chart may hang over its frame.
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.evaluate("[...document.querySelectorAll('svg')].every(each => each.getBBox().width <= 641)")
