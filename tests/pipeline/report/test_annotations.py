"""Attributes and quality in the report: folded numbers against a plain loop, kappa by hand, warnings, the page."""

from __future__ import annotations

import json
from collections import Counter
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.clip import KINDS, SAMPLE_RATE
from pipeline.report.annotations import QUALITY_EDGES, AnnotatorPair
from pipeline.report.retention import Retention, fold, merge
from pipeline.report.write import write_report
from tests.support.synthetic_run import FolderStore, clip_row, rejected, table, write_unit

HOSTILE = '<img src=x onerror="alert(1)">'


def opinion(annotator: str, kind: str, *labels: str) -> dict[str, Any]:
    return {"annotator": annotator, "kind": kind, "labels": list(labels), "score": None}


def annotated_rows(seed: int, clips: int = 40, domain: str = "live") -> list[dict[str, Any]]:
    """Clips of 2 s: two annotators of gender, of whom the second is often wrong, events of one, and what was agreed."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(clips):
        start = number * 2 * SAMPLE_RATE
        truth = str(draw.choice(["male", "female"]))
        second = truth if draw.random() < 0.8 else "female"
        said = [opinion("a", "gender", truth)]
        if draw.random() < 0.9:
            said.append(opinion("b", "gender", second))
        events = [each for each in ("dog", "rain") if draw.random() < 0.3]
        said.append(opinion("a", "events", *events))
        found: dict[str, Any] = {
            "opinions": said,
            "gender": truth if len(said) == 3 and second == truth else None,
            "events": events,
            "snr_db": None if number == 0 else float(draw.uniform(-5, 45)),
            "bandwidth_hz": float(draw.choice([3400.0, 8000.0])),
            "clipped": 0.0,
        }
        dropped = rejected("annotate", "low_snr") if (found["snr_db"] or 0) < 0 else {"label": "x"}
        rows.append(clip_row(domain, "r", start, start + 2 * SAMPLE_RATE, hypotheses=[], **found, **dropped))
    return [
        *rows,
        clip_row(domain, "r", clips * 2 * SAMPLE_RATE, (clips * 2 + 1) * SAMPLE_RATE, **rejected("rover", "wer")),
    ]


def test_folded_counts_are_those_of_a_plain_loop() -> None:
    rows = annotated_rows(1)
    found = fold([table(rows)]).annotations["live"]
    asked = [row for row in rows if row.get("opinions") is not None]
    assert found.clips == len(asked) == 40
    labels = Counter(("gender", row["gender"]) for row in asked if row["gender"])
    labels += Counter(("events", event) for row in asked for event in row["events"] or ["(none)"])
    assert found.labels == dict(labels)
    assert found.agreed == {"gender": sum(row["gender"] is not None for row in asked), "events": 40}
    answered: Counter[tuple[str, int]] = Counter()
    pairs: Counter[tuple[str, ...]] = Counter()
    for row in asked:
        for kind in KINDS:
            said = {each["annotator"]: "+".join(each["labels"]) for each in row["opinions"] if each["kind"] == kind}
            answered[kind, len(said)] += bool(said)
            for one, other in combinations(sorted(said), 2):
                pairs[kind, one, other, said[one], said[other]] += 1
    assert found.answered == dict(+answered)
    assert found.pairs == dict(pairs)
    for name, edges in QUALITY_EDGES.items():
        values = [(row.get(name), row["outcome"], row["end"] - row["start"]) for row in asked]
        for kept, outcome in enumerate(("kept", "rejected")):
            mine = [(value, samples) for value, became, samples in values if value is not None and became == outcome]
            if name not in found.quality:
                assert not mine
                continue
            bins = [int(np.sum(edges <= value)) for value, _ in mine]
            assert found.quality[name][:, kept, 0].tolist() == np.bincount(bins, minlength=len(edges) + 1).tolist()
            assert found.quality[name][:, kept, 1].sum() == sum(samples for _, samples in mine)


def test_folding_in_parts_gives_the_same() -> None:
    whole = fold([table(annotated_rows(seed, domain="ab"[seed % 2])) for seed in range(4)])
    parts = [fold([table(annotated_rows(seed, domain="ab"[seed % 2]))]) for seed in (2, 0, 3, 1)]
    folded = reduce(merge, parts, Retention()).to_json()["annotations"]
    assert folded == whole.to_json()["annotations"]
    assert {each["domain"] for each in folded["domains"]} == {"a", "b"}


def test_a_run_without_annotations_has_none() -> None:
    assert fold([table([clip_row("live", "r", 0, 32_000)])]).to_json()["annotations"] is None


def pair(**counts: int) -> AnnotatorPair:
    return AnnotatorPair(kind="gender", first="a", second="b", table={(key[0], key[1]): n for key, n in counts.items()})


def test_kappa_is_cohens() -> None:
    # The example of 50 grants: both yes 20, both no 15, one yes 5, the other 10: kappa 0.4.
    assert pair(yy=20, yn=5, ny=10, nn=15).kappa == pytest.approx(0.4)
    assert pair(yy=10, nn=10).kappa == pytest.approx(1.0)
    assert pair(yy=25, yn=25, ny=25, nn=25).kappa == pytest.approx(0.0)
    assert pair(yy=9).kappa is None, "by chance they would always agree"


def test_annotators_that_agree_by_chance_and_a_label_that_all_have_are_named() -> None:
    rows = []
    for number in range(40):
        said = [
            opinion("a", "gender", ("male", "female")[number % 2]),
            opinion("b", "gender", ("male", "female")[number // 2 % 2]),
        ]
        start = number * 32_000
        rows.append(clip_row("live", "r", start, start + 32_000, opinions=said, emotion="neutral", label="x"))
    gender, emotion = fold([table(rows)]).annotations["live"].warnings()
    assert "kappa 0.00" in gender
    assert gender.startswith("gender: a and b agree hardly")
    assert emotion.startswith("emotion: 100.0 % of the labelled clips are neutral")
    assert fold([table(rows[:10])]).annotations["live"].warnings() == [], "ten clips say nothing"


def test_the_page_shows_attributes_quality_and_an_example_of_each(tmp_path: Path) -> None:
    rows = annotated_rows(3, clips=60)
    rows[5] |= {"gender": HOSTILE, "emotion": "fear", "outcome": "kept", "stage": None, "reason": None, "label": "x"}
    store = FolderStore(tmp_path)
    write_unit(store, "live-000000", [row | {"unit_id": "live-000000"} for row in rows])
    write_report(store, fold(store.ledgers()))
    page = store.read("report.html").decode()
    assert HOSTILE not in page
    for part in ('id="attributes"', 'id="quality"', "How far annotators agree", "kappa <b>0.", 'id="listen-attribute"'):
        assert part in page
    options = page.partition('id="listen-attribute"')[2].partition("</select>")[0]
    for label in ("gender: male", "gender: female", "events: dog", "emotion: fear"):
        assert f'<option value="{label}">' in options, "whatever can be chosen has an example"
    document = json.loads(store.read("report.json"))
    assert document["annotations"]["total"]["attributes"]["gender"]["agreed"] > 0
    places = [(each["recording_id"], each["start"]) for each in document["examples"]]
    assert len(places) == len(set(places)), "no clip is shown twice"
