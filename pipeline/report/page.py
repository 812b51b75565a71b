"""report.html: one self-contained page, no network, that a person enjoys reading.

    Retention, Speeds, examples ──> values for the template and JSON for the charts ──report.html, css, js──> bytes

Whatever comes from manifests and transcripts is hostile: beside what every page does (operators/page), the JSON has no
<, > or & left in it, and the scripts set text and never markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from operators.agreement import AgreementRule
from operators.edits import align
from operators.page.marks import MARKS, data_uri, marked
from operators.text.spoken import tokens
from pipeline.display.pages import MOST_DOMAINS, render
from pipeline.display.words import clock, explain, human_time, shares_in_one_unit
from pipeline.report.annotations import ATTRIBUTE_COLUMN, QUALITY_EDGES, Annotations, AnnotatorPair
from pipeline.report.examples import Audio, Example, ExampleClip, RunStore, collect
from pipeline.report.histograms import DURATION_EDGES, RATE_EDGES, SCORE_EDGES, Distributions
from pipeline.report.retention import AGREEMENT_REASONS, Retention, Tally
from pipeline.report.speeds import Speeds

_LONGEST_TEXT = 2000


def shown_domains(retention: Retention) -> list[tuple[str, Tally]]:
    """Return the domains that the page shows one by one, best retention first."""
    largest = sorted(retention.domains.items(), key=lambda item: (-item[1].input, item[0]))[:MOST_DOMAINS]
    return sorted(largest, key=lambda item: (-(item[1].retention or 0), item[0]))


def render_html(
    store: RunStore,
    retention: Retention,
    speeds: Speeds | None,
    shortlists: Sequence[Sequence[Example]],
    audio: Audio | None,
    *,
    rule: AgreementRule,
    title: str,
    planned: int | None = None,
) -> bytes:
    """Return the page of a run judged by `rule`, of so many `planned` units.

    `shortlists` has the examples of each of `shown_domains`, in order.
    """
    named = shown_domains(retention)
    domains = [*named, *_others(retention, named)]
    total = retention.total
    shown = zip(named, collect(store, [list(each) for each in shortlists], audio), strict=True)
    examples: list[dict[str, Any]] = [
        {"name": name, "clips": [_card(clip) for clip in clips]} for (name, _), clips in shown if clips
    ]
    annotations = _scoped(retention, named)
    return render(
        "report.html",
        title=title,
        scripts=("charts.js", "report.js"),
        total=total,
        domains=domains,
        ledgers=retention.ledgers,
        unfinished=planned is not None and planned > retention.ledgers,
        planned=planned,
        difference=total.difference,
        identity=_identity(total),
        causes=sorted(total.rejected, key=lambda cause: (-total.rejected[cause].samples, cause)),
        reasons=_reasons(total),
        rule=rule,
        speeds=speeds,
        examples=examples,
        example_attributes=sorted(
            {each for domain in examples for clip in domain["clips"] for each in clip["attributes"]}
        ),
        attributes=_attributes(annotations),
        pairs=[_pair(pair) for pair in annotations[0][1].annotator_pairs()] if annotations else [],
        warnings=annotations[0][1].warnings() if annotations else [],
        measures=[name for name in QUALITY_EDGES if annotations and name in annotations[0][1].quality],
        payload=_payload(domains, total, retention.languages, rule, annotations),
    )


def _others(retention: Retention, named: list[tuple[str, Tally]]) -> list[tuple[str, Tally]]:
    names = {name for name, _ in named}
    rest = [tally for name, tally in retention.domains.items() if name not in names]
    return [(f"({len(rest):,} smaller domains)", reduce(Tally.plus, rest))] if rest else []


_MOST_LABELS = 10


def _scoped(retention: Retention, named: list[tuple[str, Tally]]) -> list[tuple[str, Annotations]]:
    """Return the annotations of all clips, then of each domain that is shown and has some; [] where there are none."""
    if not retention.annotations:
        return []
    own = [(name, retention.annotations[name]) for name, _ in named if name in retention.annotations]
    return [("All domains", retention.annotated), *own]


def _attributes(annotations: list[tuple[str, Annotations]]) -> list[dict[str, Any]]:
    """Return a table for each kind of attribute: of each domain the yield of agreement and the shares of its labels."""
    tables = []
    for kind in annotations[0][1].kinds() if annotations else []:
        shown = [label for label, _ in annotations[0][1].distribution(kind)[:_MOST_LABELS]]
        rows = []
        for name, found in annotations:
            counts, known = dict(found.distribution(kind)), found.agreed.get(kind, 0)
            rows.append(
                {
                    "name": name,
                    "clips": found.clips,
                    "answered": found.opinions(kind, 2),
                    "agreed": known,
                    "yield": 100 * known / found.clips if found.clips else None,
                    "shares": [100 * counts.get(label, 0) / known if known else None for label in shown],
                }
            )
        tables.append({"kind": kind, "labels": shown, "rows": rows})
    return tables


def _pair(pair: AnnotatorPair) -> dict[str, Any]:
    """Return the table of two annotators: their commonest labels, and how many clips have each two of them."""
    labels = pair.labels[:_MOST_LABELS]
    return {
        "kind": pair.kind,
        "first": pair.first,
        "second": pair.second,
        "clips": pair.clips,
        "agreement": 100 * pair.agreement,
        "kappa": pair.kappa,
        "labels": labels,
        "rows": [(label, [pair.table.get((label, other), 0) for other in labels]) for label in labels],
    }


def _identity(total: Tally) -> list[dict[str, Any]]:
    disagree = sum(amount.samples for (_, reason), amount in total.rejected.items() if reason in AGREEMENT_REASONS)
    terms = [
        ("input", "in", total.input),
        ("kept", "kept", total.kept.samples),
        ("disagree", "transcripts disagree", disagree),
        ("rejected", "rejected otherwise", total.rejected_total.samples - disagree),
        ("silent", "not speech", total.non_speech),
        ("unreadable", "unreadable", total.unreadable_total),
    ]
    shown = shares_in_one_unit([samples for *_, samples in terms])
    return [
        {"key": key, "label": label, "samples": samples, "shown": text}
        for (key, label, samples), text in zip(terms, shown, strict=True)
    ]


def _reasons(total: Tally) -> list[dict[str, Any]]:
    rejected = [(cause, amount.samples, amount.clips, "clips") for cause, amount in total.rejected.items()]
    unread = [
        (cause, total.unreadable.get(cause, 0), files, "files") for cause, files in total.unreadable_files.items()
    ]
    return [
        {
            "stage": stage,
            "reason": reason,
            "explanation": explain(reason),
            "count": count,
            "unit": unit if count != 1 else unit[:-1],
            "samples": samples,
            "share": 100 * samples / total.input if total.input else None,
        }
        for (stage, reason), samples, count, unit in sorted(
            rejected + unread, key=lambda row: (-row[1], -row[2], row[0])
        )
    ]


def _payload(
    domains: list[tuple[str, Tally]],
    total: Tally,
    languages: Mapping[str, Distributions],
    rule: AgreementRule,
    annotations: list[tuple[str, Annotations]],
) -> dict[str, Any]:
    """Return what the charts draw: sums in samples, histograms per scope (all, domains, languages)."""
    scopes = [("All domains", total), *domains]
    stages = ("plan", "decode", "segment", "transcribe", "copilot", "rover", "annotate")
    rank = {stage: at for at, stage in enumerate(stages)}
    accounts = []
    for name, tally in scopes:
        causes = sorted(
            tally.rejected.items(), key=lambda item: (rank.get(item[0][0], len(rank)), -item[1].samples, item[0])
        )
        accounts.append(
            {
                "name": name,
                "input": tally.input,
                "kept": tally.kept.samples,
                "nonSpeech": tally.non_speech,
                "unreadable": tally.unreadable_total,
                "clips": tally.kept.clips,
                "rejected": [[stage, reason, amount.samples, amount.clips] for (stage, reason), amount in causes],
                **_histograms(tally.distributions or Distributions(), joint=True),
            }
        )
    heard = sorted(languages.items(), key=lambda item: (-int(item[1].duration[:, :, 1].sum()), item[0]))
    return {
        "rule": {"maxWer": rule.max_wer, "maxPer": rule.max_per, "dropWhen": rule.drop_when},
        "edges": {"score": SCORE_EDGES.tolist(), "rate": RATE_EDGES.tolist(), "duration": DURATION_EDGES.tolist()},
        "agreement": list(AGREEMENT_REASONS),
        "explanations": {reason: explain(reason) for _, reason in sorted(total.rejected)},
        "scopes": accounts,
        "languages": [{"name": name or "not known", **_histograms(found, joint=False)} for name, found in heard],
        "quality": {
            "edges": {name: edges.tolist() for name, edges in QUALITY_EDGES.items()},
            "scopes": [
                {
                    "name": name,
                    **{measure: _packed(counts) for measure, counts in found.quality.items()},
                }
                for name, found in annotations
            ],
        },
    }


def _histograms(found: Distributions, *, joint: bool) -> dict[str, Any]:
    """Return histograms as [kept clips, kept samples, rejected clips, rejected samples], the joint one as
    [cell, samples, ...].
    """
    packed: dict[str, Any] = {name: _packed(getattr(found, name)) for name in ("wer", "per", "rate", "duration")}
    if joint:
        flat = found.wer_per.ravel()
        cells = np.flatnonzero(flat)
        packed["joint"] = np.stack([cells, flat[cells]], axis=1).ravel().tolist()
    return packed


def _packed(counts: np.ndarray) -> list[list[int]]:
    packed: list[list[int]] = counts.transpose(1, 2, 0).reshape(4, -1).tolist()
    return packed


def _card(clip: ExampleClip) -> dict[str, Any]:
    row = clip.row
    heard = row["hypotheses"] or []
    return {
        "clip_id": row["clip_id"],
        "outcome": row["outcome"],
        "reason": row["reason"] or "",
        "explanation": explain(row["reason"] or ""),
        "detail": _cut(row["detail"] or "") if row["stage"] != "rover" else "",  # it repeats the rates
        "wer": row["wer"],
        "per": row["per"],
        "language": row["language"] or "",
        "duration": human_time(row["end"] - row["start"]),
        "attributes": _labels(row),
        "said": _said(row),
        "snr_db": row["snr_db"],
        "audio": data_uri(clip.audio) if clip.audio else None,
        "lines": _lines(row, heard),
        "raw": _heard(heard) if row["asr_norm"] is not None else [],
        "label": _cut(row["label"] or ""),
        "recording_id": _cut(row["recording_id"], 200),
        "time": f"{clock(row['start'])}–{clock(row['end'])}",
        "provenance": _provenance(row["provenance"]),
    }


def _labels(row: Mapping[str, Any]) -> list[str]:
    """Return "gender: male" and the like for what is known of a clip."""
    labels: list[tuple[str, str]] = []
    for kind, column in ATTRIBUTE_COLUMN.items():
        known = row[column]
        labels += [(kind, label) for label in (known if isinstance(known, list) else [known]) if label is not None]
    return [f"{kind}: {_cut(label, 60)}" for kind, label in labels]


def _said(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (annotator, kind, labels) of every opinion of a clip."""
    return [
        (_cut(each["annotator"], 80), each["kind"], _cut(", ".join(each["labels"]) or "none", 200))
        for each in row["opinions"] or ()
    ]


def _heard(hypotheses: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"engine": each["engine"] or "", "text": _cut(each["text"] or "")} for each in hypotheses]


def _lines(row: Mapping[str, Any], heard: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was compared, differences marked; before anything was compared, what each engine wrote."""
    if row["asr_norm"] is None or row["copilot_norm"] is None:
        return [
            {"engine": each["engine"], "role": "", "runs": marked([("same", each["text"])])} for each in _heard(heard)
        ]
    edits = align(tokens(_cut(row["asr_norm"])), tokens(_cut(row["copilot_norm"])))
    # With several copilots the ledger does not say which of them was nearest to the ASR.
    second = heard[1]["engine"] if len(heard) == 2 else "nearest copilot"
    sides = (
        ("asr", heard[0]["engine"] if heard else "ASR", [(MARKS[edit.kind], edit.reference) for edit in edits]),
        ("copilot", second, [(MARKS[edit.kind], edit.hypothesis) for edit in edits]),
    )
    return [
        {"engine": engine or side, "role": "reference" if row["reference"] == side else "", "runs": marked(steps)}
        for side, engine, steps in sides
    ]


def _provenance(text: str | None) -> list[tuple[str, str, str | None]]:
    """Return (name, value, link) of what the manifest said; a link only where the value is a web address."""
    fields = json.loads(text) if text else {}
    return [
        (_cut(str(name), 60), _cut(str(value), 200), _link(value))
        for name, value in fields.items()
        if value is not None and value != ""
    ][:12]


def _link(value: Any) -> str | None:
    # Only what is plainly http(s): "javascript:" and "data:" stay text, also with blanks or control characters inside.
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable() or value != value.strip():
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in ("http", "https") and parts.netloc else None


def _cut(text: str, longest: int = _LONGEST_TEXT) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
