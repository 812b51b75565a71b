"""`compare`: how two transcripts are judged, and why. This is what one debugs the text rules with.

A, B, --language ──spoken and folded forms, numbers, WER, PER──> verdict, as lines to read
--pairs FILE.tsv (lang, a, b) ──line by line──> one JSON object a line, "keep" true or false
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from operators.agreement import AgreementJudge
from operators.clip import Hypothesis
from operators.errors import UserError
from operators.language import canonical

COLUMNS = ("lang", "a", "b")
"""Of a file of pairs; any others are handed on."""


def judged(judge: AgreementJudge, first: str, second: str, language: str | None) -> dict[str, Any]:
    """Return how two transcripts are judged, `first` as the ASR's and `second` as the copilot's, and why."""
    heard = (Hypothesis(engine="asr", text=first), Hypothesis(engine="copilot", text=second))
    agreement = judge.measure(heard[0], heard[1:], language, seconds=0.0)
    verdict = judge.judge(agreement, heard, language)
    compared = judge.folder.compare(first, second, language, always_fold=True)
    return {
        "lang": canonical(language),
        "a": first,
        "b": second,
        "keep": verdict.kept,
        "reason": verdict.rejection.reason if verdict.rejection else None,
        "why": verdict.rejection.detail if verdict.rejection else "within the limits, and the numbers agree",
        "label": verdict.label,
        "wer": agreement.wer,
        "per": agreement.per,
        "reference": agreement.reference,
        "spoken": [compared.first.spoken, compared.second.spoken],
        "folded": [compared.first.folded, compared.second.folded],
        "numbers": [list(compared.first.numbers), list(compared.second.numbers)],
    }


def compare_texts(first: str, second: str, language: str | None, judge: AgreementJudge) -> None:
    """Print the story of two transcripts, one fact a line."""
    found, rule = judged(judge, first, second, language), judge.rule
    bounds = f"at most {rule.max_wer:g} % and {rule.max_per:g} %"
    lines = [
        ("language", found["lang"] or "not known"),
        ("written", first, second),
        ("spoken", *found["spoken"]),
        ("folded", *found["folded"]),
        ("numbers", *(" ".join(numbers) or "none" for numbers in found["numbers"])),
        ("WER, PER", f"{found['wer']:.1f} %, {found['per']:.1f} % of the {found['reference']}'s text ({bounds})"),
        ("verdict", "keep" if found["keep"] else f"drop: {found['reason']}"),
        ("why", found["why"]),
    ]
    if found["keep"]:
        lines.append(("label", found["label"]))
    for name, *texts in lines:
        for at, text in enumerate(texts):
            print(f"{name if at == 0 else '':9} {text}")


def compare_pairs(path: str, judge: AgreementJudge) -> None:
    """Write one JSON object a line for each pair of a TSV file, as it is read. Raises UserError."""
    for row in _rows(path):
        found = judged(judge, row["a"], row["b"], row["lang"] or None)
        rates = {rate: round(found[rate], 2) for rate in ("wer", "per")}
        print(json.dumps(found | rates | {key: row[key] for key in row if key not in found}, ensure_ascii=False))


def _rows(path: str) -> Iterator[dict[str, str]]:
    try:
        with sys.stdin if path == "-" else Path(path).open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path} has no column {missing[0]}: its first line names lang, a, b, with tabs between"
                )
            for row in table:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {table.line_num}: it needs {len(table.fieldnames or ())} fields")
                yield row
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as such") from None
