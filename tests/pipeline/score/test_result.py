"""Label quality: numbers worked out by hand, curves against plain loops, coverage, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from operators.agreement import AgreementRule
from operators.edits import edit_counts, error_rate
from operators.errors import UserError
from operators.resampling import Estimate
from operators.text.spoken import Normaliser, evaluation_form, tokens
from pipeline.score.clips import SCORE_COLUMNS
from pipeline.score.counts import ScoreSettings
from pipeline.score.estimates import CurvePoint, Scope
from pipeline.score.page import render_page
from pipeline.score.result import Score, headline
from pipeline.score.truth import Tolerance
from tests.support.synthetic_run import clip_row, rejected, stretch_row
from tests.support.truths import (
    ROWS,
    SECOND,
    TRUTH,
    clip,
    crawl_run,
    heard,
    near,
    score_of,
    scored,
    truth_bytes,
    truth_line,
    whole,
)

__all__ = ["crawl_run", "whole"]


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
    assert book.better == by_hand.total.better == "asr", "of the book's kept clips: no other domain has any"
    assert live.better == "copilot", "nothing was kept: the lower CER of all clips"


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


def test_engines_wrong_together_but_not_alike() -> None:
    rows = [
        clip(
            "d",
            "r",
            **heard(0, 4, "en", "red greed blue", "red grin blue", wer=33.0, per=5.0),
            **rejected("rover", "wer"),
        ),
        clip("d", "r", **heard(5, 9, "en", "one too", "one too"), label="one too"),
    ]
    joint = scored(rows, truth_bytes(truth_line("r", "en", (0, 4, "red green blue"), (5, 9, "one two")))).total.joint[0]
    assert (joint.both_wrong.value, joint.both_wrong_alike.value) == (100, 50)


def test_an_error_rate_is_over_the_truth_and_its_limit_is_included() -> None:
    said = "red green blue pink"
    rows = [clip("d", "r", **heard(0, 4, "en", f"{said} grey", f"{said} grey"), label=f"{said} grey")]
    one_in_four = scored(rows, truth_bytes(truth_line("r", "en", (0, 4, said))), limits=(20.0, 25.0)).total
    assert one_in_four.systems[0].kept.mer.value == 25
    assert [share.value for share in one_in_four.systems[0].kept.wrong] == [100, 0]


def test_the_language_is_that_of_the_truth_where_it_tells() -> None:
    row = clip("d", "r", **heard(0, 4, "en", "你好", "你好"), label="你好")
    for given, name in (("zh", "zh"), (None, "en")):
        found = scored([row], truth_bytes(truth_line("r", given, (0, 4, "你好吗"))))
        assert [scope.name for scope in found.languages] == [name]
        assert (found.total.systems[0].kept.wer.value is None) == (name == "zh")
        assert found.total.systems[0].kept.mer.value == near(100 / 3)


def test_the_worst_kept_labels_are_listed() -> None:
    said = "a b c d e f g h i j k l m n o p q r s t u v w x y"
    starts = range(0, 150, 6)
    labels = [" ".join(["-"] * at + said.split()[at:]) for at in range(25)]
    rows = [
        clip("d", "r", **heard(s, s + 4, "en", text, text), label=text) for s, text in zip(starts, labels, strict=True)
    ]
    found = scored(rows, truth_bytes(truth_line("r", "en", *((s, s + 4, said) for s in starts))), spoken=False)
    assert [wrong["error_rate"] for wrong in found.wrong_labels] == [near(4 * at) for at in range(24, 4, -1)]
    assert found.wrong_labels[0]["clip_id"] == rows[24]["clip_id"]
    assert found.wrong_labels[0]["label"] == "Y"


def test_the_headline_compares_kept_labels_with_the_better_engine(by_hand: Score) -> None:
    # Only Chinese clips of the book were kept, 11 characters: the ASR has 1 error in the book's 15, the copilot 2.
    assert by_hand.total.alone.value == near(100 / 15)
    assert by_hand.total.lower_by.value == pytest.approx((1 / 15) / (1 / 11))
    assert headline(by_hand.total) == (
        "kept labels have 1.4× higher CER (9.09 %) than the better engine alone in the same domains "
        "(asr: 6.67 %; 9.09 % in the kept clips)"
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
        "kept labels have 5.5× lower CER (0.26 %) than the better engine alone in the same domains "
        "(asr: 1.41 %; 0.26 % in the kept clips)"
    )


def domain_of(name: str, errors: int, *, kept: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Four clips of a domain in which both engines make the same number of errors in ten characters, and the truth."""
    text = "x" * errors + "a" * (10 - errors)
    spans = [(s, s + 4) for s in (0, 10, 20, 30)]
    fate: dict[str, Any] = {"label": text} if kept else rejected("rover", "wer_and_per")
    rows = [clip(name, name, **heard(*span, "en", text, text), **fate) for span in spans]
    return rows, [truth_line(name, "en", *((*span, "a" * 10) for span in spans))]


def test_a_filter_that_only_leaves_out_a_hard_domain_gains_nothing() -> None:
    easy, said = domain_of("easy", 1, kept=True)
    hard, said_too = domain_of("hard", 9, kept=False)
    alone, both = scored(easy, truth_bytes(*said)).total, scored([*easy, *hard], truth_bytes(*said, *said_too)).total
    assert both.systems[1].all.cer.value == near(50), "the engine over all clips is five times as wrong as the labels"
    assert (both.alone.value, both.lower_by.value) == (near(10), near(1)) == (alone.alone.value, alone.lower_by.value)
    assert headline(both) == headline(alone)
    assert "the same CER (10.0 %)" in headline(both)


def test_engines_are_compared_on_the_clips_that_the_rule_decided() -> None:
    rows, lines = [], []
    for at in range(3):
        said = "one two three four five six seven eight nine ten"
        lines.append(truth_line(f"r{at}", "en", (0, 5, said), (6, 11, said)))
        rows.append(clip("d", f"r{at}", **heard(0, 5, "en", said, said), label=said))
        rows.append(clip("d", f"r{at}", **heard(6, 11, "en", "thank you"), **rejected("transcribe", "stock_phrase")))
    total = scored(rows, truth_bytes(*lines)).total
    assert total.systems[1].all.cer.value is not None
    assert total.systems[1].all.cer.value > 40, "the ASR failed in half of the clips"
    assert (total.alone.value, total.undecided) == (0, 3), "but not in those that the copilot heard as well"


def test_where_nobody_speaks_engines_are_compared_per_clip() -> None:
    rows = [
        clip("noise", "n", **heard(0, 4, "en", "yes", "yes"), label="yes"),
        clip("noise", "n", **heard(10, 14, "en", "hello", "bye", wer=100.0, per=100.0), **rejected("rover", "wer")),
        clip("talk", "t", **heard(0, 4, "en", "good morning", "good morning"), label="good morning"),
    ]
    total = scored(rows, truth_bytes(truth_line("n", "en"), truth_line("t", "en", (0, 4, "good morning")))).total
    # 11 characters kept, 3 invented. In the noise the ASR invents 8 in two clips, the copilot 6: 3 in the kept one.
    assert total.better == "copilot"
    assert total.alone.value == near(100 * 3 / 11)
    assert total.lower_by.value == near(1)


def test_like_is_compared_with_like_unless_asked_otherwise() -> None:
    rows = [
        clip("d", "r", **heard(0, 4, "en", "I cannot see 23", "i cannot see twenty three"), label="I cannot see 23")
    ]
    truth = truth_bytes(truth_line("r", "en", (0, 4, "I cannot see twenty three")))
    assert scored(rows, truth).total.systems[0].kept.mer.value == 0
    assert scored(rows, truth, spoken=False).total.systems[0].kept.mer.value == near(100 * 2 / 5)
    digits = [clip("d", "r", **heard(0, 4, "zh", "他有23个", "他有二十三个"), label="他有23个")]
    said = truth_bytes(truth_line("r", "zh", (0, 4, "他有二十三个")))
    assert scored(digits, said).total.systems[0].kept.cer.value == 0
    assert scored(digits, said, spoken=False).total.systems[0].kept.cer.value == near(100 * 3 / 6)


def test_intervals_are_drawn_by_recording() -> None:
    def run(*errors: int) -> Score:
        rows, lines = [], []
        for at, wrong in enumerate(errors):
            text = "x" * wrong + "a" * (10 - wrong)
            rows += [clip("d", f"r{at}", **heard(s, s + 4, "en", text, text), label=text) for s in (0, 10, 20)]
            lines.append(truth_line(f"r{at}", "en", *((s, s + 4, "a" * 10) for s in (0, 10, 20))))
        return scored(rows, truth_bytes(*lines))

    assert run(1, 1, 1, 1).total.systems[1].all.cer == Estimate(10.0, 10.0, 10.0), (
        "recordings that are alike leave no doubt"
    )
    # Of two recordings the same one is drawn twice in a quarter of the draws: the interval is as wide as the two.
    assert run(0, 2).total.systems[1].all.cer == Estimate(10.0, 0.0, 20.0)
    assert run(2).total.systems[1].all.cer == Estimate(20.0, None, None), "one recording says nothing about others"
    spread = run(*range(10)).total.systems[1].all.cer
    # The mean of ten uniform draws of 0, 10, ... 90 % has a standard deviation of 28.7 / sqrt(10) = 9.1.
    assert spread.value == near(45)
    assert spread.low == pytest.approx(45 - 1.96 * 9.1, abs=3)
    assert spread.high == pytest.approx(45 + 1.96 * 9.1, abs=3)


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
    for index, span in enumerate((before, after)):
        short = clip_row("d", "r", *span, **rejected("segment", "too_short"))
        assert placement(quiet[1 - index], short) == {"scored", "cut", "unheard"}


def test_every_clip_is_accounted_for_in_the_coverage() -> None:
    rows = [
        *ROWS,
        clip("other", "stranger", **heard(0, 3, "en", "who", "who"), label="who"),
        clip_row("book", "zh-1", 15 * SECOND, 16 * SECOND, **rejected("segment", "too_short")),
        clip("book", "zh-1", **heard(2, 7, "zh", "天气", "天气"), label="天气"),
    ]
    found = scored(rows, TRUTH)
    assert {key: clips for key, (clips, _) in found.coverage.items()} == {
        ("book", "scored"): 3, ("book", "unheard"): 1, ("book", "cut"): 1, ("live", "scored"): 3,
        ("other", "no_truth"): 1,
    }  # fmt: skip
    assert sum(samples for _, samples in found.coverage.values()) == sum(row["end"] - row["start"] for row in rows)
    assert found.unalignable == near(100 / 7)
    two_voices = truth_line(
        "zh-1", "zh", (0, 4, "今天天气很好。"), (1, 3, "对"), (5, 9, "我们去公园"), (10, 14, "大家安静")
    )
    assert scored(rows[:3], truth_bytes(two_voices)).unalignable == near(100 / 3)


def test_truth_that_fits_nothing_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="none of the 1 recordings of the truth file is in the run"):
        scored(ROWS, truth_bytes(truth_line("elsewhere", "en", (0, 1, "x"))))
    with pytest.raises(UserError, match=r"no clip can be scored by this truth file \(6 no_text\)"):
        scored(ROWS, truth_bytes(truth_line("zh-1", "zh", (0, 99, None)), truth_line("en-1", "en", (0, 99, None))))
    with pytest.raises(UserError, match="percentages from 0 to below 100"):
        ScoreSettings(limits=(100.0,))
    with pytest.raises(UserError, match="--silence is no less than --tolerance"):
        Tolerance(edge=10, silence=5)


# ---- a whole made-up run


def decided(crawl_run: tuple[list[pa.Table], bytes]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Clips that the rule decides, their truth and their label as texts that are compared: the obvious loop."""
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
            yield row, compared(said[row["recording_id"], row["start"]], row), compared(label, row)


def compared(text: str, row: dict[str, Any]) -> str:
    return evaluation_form(Normaliser().spoken(text, row["language"]))


@pytest.mark.parametrize("drop_when", ["either", "both"])
def test_curves_equal_a_plain_loop(crawl_run: tuple[list[pa.Table], bytes], drop_when: str) -> None:
    # 7.3 is no edge of any histogram: the run's own limits must be exact all the same.
    found = score_of(crawl_run, AgreementRule(max_wer=10.0, max_per=7.3, drop_when=drop_when))
    clips = [(row, error_rate(tokens(said), tokens(label))) for row, said, label in decided(crawl_run)]

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


def test_the_better_engine_alone_equals_a_plain_loop(crawl_run: tuple[list[pa.Table], bytes], whole: Score) -> None:
    strata: dict[tuple[str, str], list[tuple[bool, str, str, list[str]]]] = {}
    for row, said, label in decided(crawl_run):
        engines = [compared(hypothesis["text"], row) for hypothesis in row["hypotheses"]]
        strata.setdefault((row["domain"], row["language"]), []).append((row["outcome"] == "kept", said, label, engines))

    def edits(said: str, text: str) -> int:
        return edit_counts(said.replace(" ", ""), text.replace(" ", "")).total

    def length(*texts: str) -> int:
        return sum(len(text.replace(" ", "")) for text in texts)

    expected = [0.0, 0.0]
    for clips in strata.values():
        share = length(*(said for kept, said, *_ in clips if kept)) / length(*(said for _, said, *_ in clips))
        for engine in range(2):
            expected[engine] += share * sum(edits(said, engines[engine]) for _, said, _, engines in clips)
    kept = [(said, label) for clips in strata.values() for is_kept, said, label, _ in clips if is_kept]
    assert whole.total.better == ("asr" if expected[0] <= expected[1] else "copilot")
    assert whole.total.alone.value == pytest.approx(100 * min(expected) / length(*(said for said, _ in kept)))
    assert whole.total.lower_by.value == pytest.approx(min(expected) / sum(edits(*each) for each in kept))
    assert whole.total.lower_by.low is not None
    assert whole.total.lower_by.high is not None
    assert whole.total.lower_by.low < whole.total.lower_by.value < whole.total.lower_by.high


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
    again = score_of((ledgers[::-1], truth), AgreementRule())
    assert json.dumps(again.to_json()) == json.dumps(whole.to_json())
    assert render_page(again) == render_page(whole)


def test_only_the_named_columns_are_needed(crawl_run: tuple[list[pa.Table], bytes], whole: Score) -> None:
    ledgers, truth = crawl_run
    assert score_of(([ledger.select(SCORE_COLUMNS) for ledger in ledgers], truth), AgreementRule()).total == whole.total


def test_a_vote_of_three_engines_scores_every_copilot() -> None:
    def three(start: float, *texts: str, **columns: Any) -> dict[str, Any]:
        row = heard(start, start + 4, "en", texts[0], texts[1], **columns)
        row["hypotheses"].append({"engine": "third", "text": texts[2]})
        return clip("d", "r", **row)

    rows = [
        three(
            0,
            "red green blue",
            "red green glue",
            "red grin blue",
            wer=33.0,
            per=11.0,
            **rejected("rover", "wer_and_per"),
        ),
        three(5, "one two", "one two", "one too", label="one two"),
        clip("d", "r", **heard(10, 14, "en", "three four", "three four"), label="three four"),
    ]
    found = scored(
        rows, truth_bytes(truth_line("r", "en", (0, 4, "red green blue"), (5, 9, "one two"), (10, 14, "three four")))
    )
    label, asr, *copilots = found.total.systems
    assert [(system.name, system.all.clips, system.all.mer.value) for system in (asr, *copilots)] == [
        ("asr", 3, 0.0), ("copilot", 3, near(100 / 7)), ("copilot 2", 2, near(100 * 2 / 5)),
    ]  # fmt: skip
    assert found.engines == (("whisper",), ("paraformer-en",), ("third",))
    assert label.rejected.mer.value == 0, "the vote of the three would have been right"
    assert [joint.copilot for joint in found.total.joint] == ["copilot"] * 3 + ["copilot 2"] * 3
