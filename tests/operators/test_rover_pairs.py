"""The public table of pairs: does the real path (normalise, tokens, phones, WER, PER, default rule) judge as a linguist
would?

tests/data/rover_pairs.tsv was written by hand; its verdicts say whether both transcripts are the same words said aloud,
under the published rule WER <= 10 and PER <= 5. Where sound and rule part ways, `why` says so.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from operators.agreement import AgreementJudge
from operators.clip import Hypothesis

TABLE = Path(__file__).resolve().parent.parent / "data" / "rover_pairs.tsv"
COLUMNS = ["id", "category", "language", "asr", "copilot", "verdict", "why"]
LEAST_AGREEMENT = 0.98


class Judged(NamedTuple):
    row: dict[str, str]
    verdict: str
    wer: float
    per: float
    asr_norm: str
    copilot_norm: str

    @property
    def agrees(self) -> bool:
        return self.verdict == self.row["verdict"]


def judge(rover: AgreementJudge, row: dict[str, str]) -> Judged:
    asr = Hypothesis(engine="asr", text=row["asr"], language=row["language"])
    copilot = Hypothesis(engine="copilot", text=row["copilot"], language=row["language"])
    agreement = rover.measure(asr, [copilot], row["language"], 5.0)
    verdict = rover.judge(agreement, [asr, copilot], row["language"])
    kept = "keep" if verdict.kept else "drop"
    return Judged(row, kept, agreement.wer, agreement.per, agreement.asr_norm, agreement.copilot_norm)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        assert table.fieldnames == COLUMNS
        return list(table)


@pytest.fixture(scope="module")
def judged(rows: list[dict[str, str]]) -> list[Judged]:
    rover = AgreementJudge()
    return [judge(rover, row) for row in rows]


def test_table_is_well_formed(rows: list[dict[str, str]]) -> None:
    assert len(rows) >= 1000
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["language"], row["asr"], row["copilot"]) for row in rows}) == len(rows)
    assert {row["verdict"] for row in rows} == {"keep", "drop"}
    assert {row["language"] for row in rows} == {"zh", "en", "yue", "de", "fr", "es", "vi", "ja", "ko"}
    assert all(row["asr"].strip() and row["copilot"].strip() for row in rows)
    assert min(Counter(row["category"] for row in rows).values()) >= 10
    # A table of one verdict could be passed by a judge that always gives it.
    kept = sum(row["verdict"] == "keep" for row in rows) / len(rows)
    assert 0.3 < kept < 0.7


def test_default_rule_agrees_with_the_linguist(judged: list[Judged]) -> None:
    wrong = [pair for pair in judged if not pair.agrees]
    for pair in wrong:
        print(
            f"{pair.row['id']}: linguist {pair.row['verdict']}, rule {pair.verdict} (WER {pair.wer:.1f} PER "
            f"{pair.per:.1f})"
            f" | {pair.asr_norm} | {pair.copilot_norm} | {pair.row['why']}"
        )
    agreement = 1 - len(wrong) / len(judged)
    print(f"{len(judged) - len(wrong)} of {len(judged)} pairs agree: {agreement:.2%}")
    assert agreement >= LEAST_AGREEMENT


def test_disagreements_are_explained(judged: list[Judged]) -> None:
    """A row that the rule cannot decide as the linguist does is a hard one, and the file says why."""
    assert [pair.row["id"] for pair in judged if not pair.agrees and not pair.row["why"]] == []


def test_loops_never_pass(judged: list[Judged]) -> None:
    """Normalising must not repair a hallucinated loop: that would turn it into a label."""
    dropped = [pair for pair in judged if pair.row["category"] == "loops" and pair.row["verdict"] == "drop"]
    assert len(dropped) >= 8
    assert all(pair.verdict == "drop" for pair in dropped)
