"""What `show` and `plan` print: one clip's story, from recording to verdict, and the units of a run.

ledger row ──show──> story   ──captions──> WebVTT, CTM          Plan ──show_plan──> a line per domain
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from operators.align.captions import ctm, vtt
from operators.clip import SAMPLE_RATE, Unit, Word, clip_hash
from operators.edits import align
from operators.errors import UserError
from operators.storage.base import Store
from operators.text.spoken import tokens
from pipeline import ledger
from pipeline.config import Settings
from pipeline.display.words import clock, human_seconds, human_share, printable
from pipeline.plan import PLAN_KEY, Plan, declared_samples, load_plan
from pipeline.preflight import most_bytes
from pipeline.report.annotations import ATTRIBUTE_COLUMN
from stages.annotate import Annotate
from stages.copilot import Copilot
from stages.rover import Rover
from stages.segment import Segment
from stages.transcribe import Transcribe
from stages.write_shard import shard_keys


def find_clip(store: Store, clip_id: str) -> dict[str, Any]:
    """Return a clip's ledger row. The plan says which units can hold it, so few ledgers are read. Raises UserError."""
    for unit in load_plan(store):
        if not _may_hold(unit, clip_id) or not store.exists(shard_keys(unit.unit_id)[2]):
            continue
        for row in ledger.read(store, unit.unit_id)[0].to_pylist():
            if row["clip_id"] == clip_id:
                return row
    raise UserError(
        f"no clip {clip_id} in {store.root}: "
        "clip ids stand in the ledgers, in the tars and under each player of the report"
    )


def _may_hold(unit: Unit, clip_id: str) -> bool:
    return any(clip_hash(piece.recording.recording_id) in clip_id for piece in unit.pieces)


def show(store: Store, clip_id: str, console: Console) -> None:
    """Print the clip's story."""
    row = find_clip(store, clip_id)
    story = Table(show_header=False, box=None, pad_edge=False)
    story.add_column(style="dim", no_wrap=True)
    story.add_column(overflow="fold")  # a path is there to be copied whole

    def line(name: str, value: object) -> None:
        story.add_row(name, value if isinstance(value, Text) else Text(printable(str(value))))

    seconds = (row["end"] - row["start"]) / SAMPLE_RATE
    line("clip", row["clip_id"])
    line("recording", row["recording_id"])
    line("uri", row["uri"])
    for name, value in json.loads(row["provenance"] or "{}").items():
        line(f"  {name}", value)
    line("domain, unit", f"{row['domain']}, {row['unit_id']}")
    span = f"samples {row['start']:,} to {row['end']:,} ({clock(row['start'])} to {clock(row['end'])}), {seconds:.2f} s"
    voiced = human_share(row["speech_samples"], row["end"] - row["start"])
    line(f"1 {Segment.name}", f"{span}, {voiced} speech")
    for index, heard in enumerate(row["hypotheses"] or []):
        stage = f"2 {Transcribe.name}" if index == 0 else f"3 {Copilot.name}"
        facts = [heard["engine"]]
        if heard["language"]:
            sure = f" ({heard['language_prob']:.0%})" if heard["language_prob"] is not None else ""
            facts.append(heard["language"] + sure)
        if heard.get("identified_language"):
            said = f"{heard['identified_language']} ({heard['identified_prob']:.0%})"
            facts.append(f"taken for {said} at first, heard again in the language of its recording")
        if heard["avg_logprob"] is not None:
            facts.append(f"mean log-probability {heard['avg_logprob']:.2f}")
        if heard["window"] is not None:
            facts.append(
                f"window {heard['window']}" + (", in doubt there, so heard again alone" * bool(heard["retaken"]))
            )
        line(stage, ", ".join(facts))
        line("", f"“{heard['text']}”")
    if row["wer"] is not None:
        line(f"4 {Rover.name}", f"WER {row['wer']:.1f} %, PER {row['per']:.1f} % (reference: {row['reference']})")
        asr, copilot = _differences(row["asr_norm"], row["copilot_norm"])
        line("  asr", asr)
        line("  copilot", copilot)
    for name, value in _annotations(row):
        line(name, value)
    if row["outcome"] == "kept":
        line("verdict", Text("kept", style="bold green"))
        line("  label", f"“{row['label']}”")
        tar = store.url(shard_keys(row["unit_id"])[0])
        line("  lies in", f"{tar}, {row['tar_size']:,} bytes at {row['tar_offset']:,}")
    else:
        line("verdict", Text(f"rejected by {row['stage']}: {row['reason']}", style="bold red"))
        if row["detail"]:
            line("", row["detail"])
    line("content", row["content_hash"])
    console.print(story)


def _annotations(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what Annotate found of a clip, line by line; [] where nobody was asked."""
    if row["opinions"] is None:
        return []
    agreed = [
        f"{kind} {', '.join(known) if isinstance(known, list) else known}".rstrip() if known != [] else f"no {kind}"
        for kind, column in ATTRIBUTE_COLUMN.items()
        if (known := row[column]) is not None
    ]
    lines = [(f"5 {Annotate.name}", "; ".join(agreed) or "nothing is agreed on")]
    for said in row["opinions"]:
        score = "" if said["score"] is None else f" ({said['score']:.2f})"
        lines.append(("", f"{said['annotator']}: {said['kind']} {', '.join(said['labels']) or 'none'}{score}"))
    units = {"snr_db": "SNR {:.1f} dB", "bandwidth_hz": "speech up to {:.0f} Hz", "clipped": "{:.4%} cut off"}
    units |= {"dnsmos_sig": "DNSMOS {:.2f}", "dnsmos_bak": "background {:.2f}", "dnsmos_ovrl": "overall {:.2f}"}
    quality = [text.format(row[name]) for name, text in units.items() if row[name] is not None]
    lines += [("  quality", ", ".join(quality))] if quality else []
    if row["speaker"] is not None:
        shared = "" if row["overlap"] is None else f", {row['overlap']:.0%} with another"
        lines.append(("  speaker", f"{row['speaker']}{shared}"))
    if row["words"] is not None:
        lines.append(("  words", f"{len(row['words'])} with times"))
    return lines


def captions(store: Store, clip_id: str, form: str) -> str:
    """Return the words of a kept clip with their times: "vtt" counts from the start of the clip, "ctm" from that of its
    recording.

    Raises UserError where the run has no times of this clip.
    """
    row = find_clip(store, clip_id)
    if row.get("words") is None:
        why = (
            "was not aligned: set annotate.words.aligners to two of them"
            if row["outcome"] == "kept"
            else "was rejected"
        )
        raise UserError(f"{clip_id} has no word times: it {why}")
    words = [Word(**word) for word in row["words"]]
    return vtt(words) if form == "vtt" else ctm(words, row["recording_id"], row["start"])


def _differences(asr: str, copilot: str) -> tuple[Text, Text]:
    """Return both spoken forms with what differs marked."""
    first, second = Text(), Text()
    for edit in align(tokens(asr), tokens(copilot)):
        same = edit.kind == "equal"
        for text, token, style in ((first, edit.reference, "bold red"), (second, edit.hypothesis, "bold yellow")):
            if token:
                text.append(printable(token), style="" if same else style)
                text.append(" ")
    return first, second


def show_plan(settings: Settings, store: Store | None, plan: Plan, console: Console) -> None:
    """Print the plan per domain, the most that it can come to, and where it lies; None: nowhere for long."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("domain", "units", "recordings", "declared", "refused"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for domain, own in groupby(plan, key=lambda unit: unit.domain):
        units = recordings = refused = samples = 0
        for unit in own:
            units += 1
            samples += sum(declared_samples(piece) for piece in unit.pieces)
            recordings += sum(piece.start == 0 for piece in unit.pieces)
            refused += sum(piece.problem is not None for piece in unit.pieces)
        name, declared = Text(printable(domain)), human_seconds(samples / SAMPLE_RATE)
        table.add_row(name, f"{units:,}", f"{recordings:,}", declared, f"{refused:,}")
    console.print(table)
    seconds = plan.expected_seconds()
    most = f"at most {len(plan):,} shards and {most_bytes(settings.audio, seconds) / 1e9:,.2f} GB, if all were kept"
    console.print(f"{human_seconds(seconds)} in {len(plan):,} units: {most}", highlight=False, soft_wrap=True)
    if store is not None:
        console.print(f"plan: {printable(store.url(PLAN_KEY))}", markup=False, highlight=False, soft_wrap=True)
