"""Retention: folded numbers against a plain loop over rows, conservation, merging, report.json and the terminal."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from operators.agreement import AgreementRule
from operators.shard import ledger_bytes, read_ledger
from operators.storage.base import S3Settings
from operators.storage.fetch import open_store
from pipeline.display.words import human_percent, human_seconds, shares_in_one_unit
from pipeline.report.histograms import SCORE_EDGES
from pipeline.report.retention import FOLD_COLUMNS, ConservationError, Retention, fold, merge
from pipeline.report.speeds import fold_speeds, read_speeds
from pipeline.report.terminal import render_terminal
from pipeline.report.write import write_report
from tests.support.synthetic_run import (
    PROFILES,
    FolderStore,
    clip_row,
    make_run,
    rejected,
    stretch_row,
    table,
    unreadable,
)

SECOND = 16_000
FEW = {name: PROFILES[name] for name in ("newsread", "podcast", "訪談 cantonese", "sounds")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FolderStore:
    return make_run(tmp_path_factory.mktemp("run"), FEW, recordings=3)


@pytest.fixture(scope="module")
def retention(run: FolderStore) -> Retention:
    return fold(run.ledgers())


def slow_account(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The obvious loop over rows of one domain."""
    samples: Counter[str] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    clips: Counter[str] = Counter()
    for row in rows:
        length = row["end"] - row["start"]
        samples[row["outcome"]] += length
        if row["outcome"] == "rejected":
            lost[row["stage"], row["reason"]] += length
        if row["clip_id"]:
            clips[row["outcome"]] += 1
            samples["speech"] += length
            samples["clipped"] += length if row["reason"] != "too_short" else 0
    return {"samples": samples, "lost": lost, "clips": clips, "input": sum(row["end"] - row["start"] for row in rows)}


def test_numbers_equal_a_plain_loop_over_all_rows(run: FolderStore, retention: Retention) -> None:
    rows = defaultdict(list)
    for ledger in run.ledgers():
        for row in ledger.to_pylist():
            rows[row["domain"]].append(row)
    assert set(rows) == set(retention.domains) == set(FEW)
    for domain, tally in retention.domains.items():
        slow = slow_account(rows[domain])
        assert tally.input == slow["input"]
        assert tally.kept.samples == slow["samples"]["kept"]
        assert tally.kept.clips == slow["clips"]["kept"]
        assert tally.rejected_total.clips == slow["clips"]["rejected"]
        assert tally.kept.voiced == sum(row["speech_samples"] for row in rows[domain] if row["outcome"] == "kept")
        assert {cause: amount.samples for cause, amount in tally.rejected.items()} == slow["lost"]
        assert tally.non_speech == slow["samples"]["non_speech"]
        assert tally.unreadable_total == slow["samples"]["unreadable"]
        assert tally.speech == slow["samples"]["speech"]
        assert tally.clipped == slow["samples"]["clipped"]
        # 3 recordings in each unit, and 3 broken files in the first, one of them a second naming of a recording.
        assert tally.recordings == 3 * FEW[domain].units + 3
        assert tally.unreadable_files == {
            ("decode", "truncated"): 1,
            ("decode", "not_audio"): 1,
            ("plan", "duplicate"): 1,
        }
    assert retention.total.input == sum(tally.input for tally in retention.domains.values())
    retention.assert_conserved()


def test_histograms_equal_a_plain_loop(run: FolderStore, retention: Retention) -> None:
    clips = [row for ledger in run.ledgers() for row in ledger.to_pylist() if row["clip_id"]]
    found = retention.total.distributions
    assert found is not None
    for name, column, edges, side in (
        ("wer", "wer", SCORE_EDGES, "left"),
        ("per", "per", SCORE_EDGES, "left"),
        ("rate", "tokens_per_second", np.arange(0.25, 12.25, 0.25), "right"),
    ):
        slow = np.zeros((len(edges) + 1, 2, 2), np.int64)
        for row in clips:
            if row[column] is not None:
                at = sum(edge < row[column] if side == "left" else edge <= row[column] for edge in edges)
                slow[at, int(row["outcome"] == "rejected")] += (1, row["end"] - row["start"])
        assert np.array_equal(getattr(found, name), slow), name
    by_language = sum(int(each.duration[:, :, 0].sum()) for each in retention.languages.values())
    assert by_language == len(clips) == int(found.duration[:, :, 0].sum())


@pytest.mark.parametrize("limits", [(10, 5), (0, 0), (15, 2.5), (5.5, 100), (1000, 1000)])
def test_time_kept_at_other_thresholds_equals_judging_every_clip_again(
    run: FolderStore, retention: Retention, limits: tuple[float, float]
) -> None:
    max_wer, max_per = limits
    decided = [
        row for ledger in run.ledgers() for row in ledger.to_pylist()
        if row["outcome"] == "kept" or row["reason"] in ("wer", "per", "wer_and_per")
    ]  # fmt: skip
    found = retention.total.distributions
    assert found is not None
    both_within = sum(row["end"] - row["start"] for row in decided if row["wer"] <= max_wer and row["per"] <= max_per)
    one_within = sum(row["end"] - row["start"] for row in decided if row["wer"] <= max_wer or row["per"] <= max_per)
    assert found.kept_at(max_wer, max_per) == both_within
    assert found.kept_at(max_wer, max_per, drop_only_when_both=True) == one_within
    assert found.kept_at(10, 5) == retention.total.kept.samples


def test_clips_on_the_edges_of_length_bins() -> None:
    lengths = [2 * SECOND, 3 * SECOND - 1, 3 * SECOND, 30 * SECOND, 30 * SECOND + 1]
    starts = np.cumsum([0, *lengths]).tolist()
    rows = [clip_row("a", "r", start, end) for start, end in pairwise(starts)]
    found = fold([table(rows)]).total.distributions
    assert found is not None
    assert {at: int(count) for at, count in enumerate(found.duration[:, 0, 0]) if count} == {2: 2, 3: 1, 29: 1, 30: 1}


def test_any_split_and_order_of_ledgers_gives_the_same_account(run: FolderStore, retention: Retention) -> None:
    ledgers = list(run.ledgers())
    draw = np.random.default_rng(5)
    for _ in range(4):
        shuffled = [ledgers[at] for at in draw.permutation(len(ledgers))]
        cut = int(draw.integers(0, len(ledgers)))
        folded = merge(fold(shuffled[:cut]), fold(shuffled[cut:]))
        assert folded.to_json() == retention.to_json()
        assert folded.examples == retention.examples


def test_only_the_named_columns_are_needed(run: FolderStore, retention: Retention) -> None:
    narrow = fold(ledger.select(FOLD_COLUMNS) for ledger in run.ledgers())
    assert narrow.to_json() == retention.to_json()


def test_examples_are_some_of_every_domain_and_reason(run: FolderStore, retention: Retention) -> None:
    there = {
        (row["domain"], row["outcome"], row["stage"] or "", row["reason"] or "")
        for ledger in run.ledgers() for row in ledger.to_pylist() if row["clip_id"]
    }  # fmt: skip
    counts = Counter(example.kind[:4] for example in retention.examples)
    assert set(counts) == there
    assert max(counts.values()) == 4


def test_a_gap_is_named_with_its_domain_and_size() -> None:
    rows = [stretch_row("good", "a", 0, 900), stretch_row("bad", "b", 0, 500), clip_row("bad", "b", 517, 900)]
    with pytest.raises(ConservationError, match=r"domain 'bad': 17 samples unaccounted for"):
        fold([table(rows)]).assert_conserved()


def test_an_overlap_is_named_with_its_domain_and_size() -> None:
    rows = [stretch_row("bad", "b", 0, 500), clip_row("bad", "b", 490, 900, **rejected("rover", "wer"))]
    with pytest.raises(ConservationError, match=r"domain 'bad': 10 samples counted twice"):
        fold([table(rows)]).assert_conserved()


def test_nothing_is_written_when_samples_are_missing(tmp_path: Path) -> None:
    folded = fold([table([stretch_row("bad", "b", 0, 500), stretch_row("bad", "b", 501, 900)])])
    with pytest.raises(ConservationError):
        write_report(FolderStore(tmp_path), folded)
    assert not list(tmp_path.iterdir())


def test_a_recording_cut_over_units_counts_as_one_file() -> None:
    broken = unreadable("decode", "truncated")
    begun = stretch_row("a", "long", 0, 1000, unit_id="a-000000")
    first = table([begun, stretch_row("a", "long", 1000, 1800, unit_id="a-000000", **broken)])
    second = table([stretch_row("a", "long", 1800, 3600, unit_id="a-000001", **broken)])
    for folded in (fold([first, second]), merge(fold([second]), fold([first]))):
        tally = folded.domains["a"]
        assert (tally.recordings, tally.unreadable_files_total, tally.input) == (1, 1, 3600)
        folded.assert_conserved()


def test_files_of_unknown_length_are_counted_by_file() -> None:
    rows = [
        stretch_row("a", "one", 0, 0, **unreadable("decode", "not_audio")),
        stretch_row("a", "two", 0, 0, **unreadable("decode", "not_audio")),
        # The same name three times: one recording that is used, and two namings of it that are not.
        stretch_row("a", "three", 0, 700),
        stretch_row("a", "three", 0, 700, **unreadable("plan", "duplicate")),
        stretch_row("a", "three", 0, 0, **unreadable("plan", "duplicate")),
    ]
    folded = fold([table(rows)])
    tally = folded.domains["a"]
    assert tally.recordings == 5
    assert tally.unreadable_files == {("decode", "not_audio"): 2, ("plan", "duplicate"): 2}
    assert (tally.input, tally.non_speech, tally.unreadable_total) == (1400, 700, 700)
    folded.assert_conserved()


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"outcome": "lost"}, "unknown outcome"),
        ({"outcome": None}, "unknown outcome"),
        ({"start": 20, "end": 10}, "backward span"),
        ({"outcome": "rejected"}, "no reason"),
        ({"outcome": "unreadable", "stage": "decode"}, "no reason"),
    ],
)
def test_rows_that_no_honest_writer_makes_are_refused(columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fold([table([stretch_row("a", "r", 0, 10) | columns])])


def test_an_empty_run_has_an_account() -> None:
    empty = fold([])
    empty.assert_conserved()
    assert empty.total.retention is None
    assert fold([table([])]).to_json()["domains"] == []


def test_memory_does_not_grow_with_the_number_of_ledgers() -> None:
    measured = {"wer": 1.0, "per": 1.0, "label": "x" * 400}
    rows = [clip_row("a", f"r{at // 10}", at % 10 * 400, at % 10 * 400 + 400, **measured) for at in range(2000)]
    written = ledger_bytes(rows, {})

    def highest(ledgers: int) -> int:
        held = []

        def stream() -> Any:
            for _ in range(ledgers):
                held.append(pa.total_allocated_bytes())
                yield read_ledger(written)[0]

        fold(stream())
        return max(held) - held[0]

    assert highest(120) < 1.3 * highest(40)


def test_report_json_adds_up_and_is_the_same_twice(run: FolderStore, retention: Retention, tmp_path: Path) -> None:
    rule = AgreementRule(max_wer=12, max_per=6, drop_when="both")
    write_report(run, retention, run.speeds(), rule=rule)
    first = run.read("report.json"), run.read("report.html")
    write_report(run, fold(reversed(list(run.ledgers()))), run.speeds(), rule=rule)
    assert (run.read("report.json"), run.read("report.html")) == first
    report = json.loads(first[0])
    assert report["thresholds"] == {"max_wer": 12, "max_per": 6, "drop_when": "both"}
    for account in [report["total"], *report["domains"]]:
        lost = sum(entry["samples"] for entry in account["rejected"])
        parts = account["kept"]["samples"] + lost + account["non_speech"]["samples"]
        assert account["input"]["samples"] == parts + sum(entry["samples"] for entry in account["unreadable"])
        assert account["input"]["seconds"] == account["input"]["samples"] / SECOND
        assert account["identity"]["difference"] == 0
    assert sum(account["input"]["samples"] for account in report["domains"]) == report["total"]["input"]["samples"]
    assert report["speeds"]["sessions"] == 2


def test_speeds_of_sessions_add_up(run: FolderStore) -> None:
    speeds = fold_speeds(run.speeds())
    assert speeds is not None
    assert (speeds.sessions, speeds.wall_seconds) == (2, 3300)
    assert speeds.real_time_factor == pytest.approx(38)
    transcribe = next(stage for stage in speeds.stages if stage.name == "Transcribe")
    assert transcribe.real_time_factor == pytest.approx(41)
    assert transcribe.utilisation == pytest.approx(0.93)
    assert fold_speeds([]) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"stages": 3}', b'{"stages": {"Segment": {}}, "wall_seconds": 1}'])
def test_a_damaged_record_of_speeds_is_named_and_left_out(content: bytes, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), S3Settings())
    whole = {"units": 1, "input_seconds": 60, "wall_seconds": 2, "stages": {}}
    store.put("speed/first.json", json.dumps(whole).encode())
    store.put("speed/second.json", content)
    assert read_speeds(store) == ([whole], ["speed/second.json"])


def printed(retention: Retention, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render_terminal(retention))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_terminal_shows_every_domain_and_every_reason(retention: Retention) -> None:
    text = printed(retention)
    for name, tally in retention.domains.items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert human_percent(tally.retention) in line
    for _, reason in retention.total.rejected:
        assert reason in text
    assert "not_audio" in text


def test_terminal_prints_hostile_names_as_they_are() -> None:
    rows = [stretch_row("[red]x[/red]", "r", 0, 100), stretch_row("\x1b[2J\u202etxt", "r", 0, 100)]
    text = printed(fold([table(rows)]))
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J\\u202etxt" in text


def test_terminal_of_an_empty_run() -> None:
    assert "0 s in" in printed(fold([]))


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=7))
def test_printed_terms_add_up_as_printed(terms: list[int]) -> None:
    shown = shares_in_one_unit([sum(terms), *terms])
    total, *parts = (round(float(text.split()[0].replace(",", "")) * 100) for text in shown)
    assert total == sum(parts)
    assert len({text.split()[1] for text in shown}) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42, "42.0 s"),
        (59.96, "1.0 min"),
        (3596, "59.9 min"),
        (3600, "1.00 h"),
        (360_000, "100 h"),
        (4.54e9, "1.26 M h"),
    ],
)
def test_lengths_read_well(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("percent", "text"), [(None, "–"), (0, "0.0 %"), (0.001, "<0.1 %"), (99.99, "99.9 %"), (100, "100.0 %")]
)
def test_a_little_is_not_nothing_and_almost_all_is_not_all(percent: float | None, text: str) -> None:
    assert human_percent(percent) == text
