"""Real recordings through the real whisperX VAD and the real whisperX and FunASR code, on Ray and in a plain loop.

The engines have random weights (tests/support/engines.py): they run, they hear nothing. So the limits on agreement
are opened wide here, and what is tested is that every recording, the broken ones too, ends where it must and that every
sample is accounted for.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset

from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.engines import random_paraformer, random_whisper
from tests.support.kills import digest

PER_DOMAIN = {
    "audiobook": 2,
    "cantonese": 1,
    "classroom": 2,
    "commands": 1,
    "live": 1,
    "meeting": 1,
    "newsread": 1,
    "sounds": 1,
}
"""Recordings of the crawl per domain: a sample that a test can afford."""

EXPECTED = {  # of truth_broken.jsonl's `expect`: outcomes that must be there for the file, and reasons that may
    "unreadable": ({"unreadable"}, None),
    "skip": ({"unreadable"}, {"not_a_file"}),
    "partial": ({"unreadable"}, {"truncated", "decode_error", "gap", "trailing_data"}),
    "no speech": ({"non_speech"}, None),
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def shortest(crawl: Path) -> Iterator[dict[str, Any]]:
    """Manifest lines of the shortest recordings of each domain."""
    durations = {record["path"]: record["duration_s"] for record in lines(crawl / "truth.jsonl")}
    rows = sorted(lines(crawl / "manifest.jsonl"), key=lambda row: durations[row["uri"]])
    for domain, count in PER_DOMAIN.items():
        yield from [row for row in rows if row["domain"] == domain][:count]


def real_engines(output: Path, manifest: Path, *more: str) -> list[str]:
    return [
        f"output={output}",
        f"sources={manifest}",
        "plan.unit_minutes=5",
        f"asr.model={random_whisper()}",
        "asr.compute_type=int8",
        "asr.options={max_new_tokens: 24, beam_size: 1}",
        f"copilot.models={{'*': '{random_paraformer()}'}}",
        "hallucination={min_avg_logprob: -1000, min_looped_tokens: 100000, min_playful_looped_tokens: 100000, "
        "rates: {default: {min_han_per_second: 0, min_words_per_second: 0, max_han_per_second: 999, "
        "max_words_per_second: 999}}}",
        "rover.max_wer=1000000",
        "rover.max_per=1000000",
        *more,
    ]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(run.glob("shards/*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def check_broken(run: Path, crawl: Path, leave_out: set[str]) -> None:
    told: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(run):
        told.setdefault(row["recording_id"], []).append(row)
    for truth in lines(crawl / "broken" / "truth_broken.jsonl"):
        name = truth["path"]
        if name.rpartition("/")[2] in leave_out or (
            name.endswith("locked.wav") and truth["problem"] == "no permission"
        ):
            continue  # root can read what nobody may
        rows = told.get(name)
        assert rows, f"{name} is in no ledger"
        outcomes = {row["outcome"] for row in rows}
        if truth["expect"] in EXPECTED:
            must, reasons = EXPECTED[truth["expect"]]
            assert must <= outcomes, (name, truth["expect"], outcomes)
            if reasons is not None:
                assert {row["reason"] for row in rows if row["outcome"] == "unreadable"} <= reasons, (name, rows)
        if truth["expect"] in ("unreadable", "skip"):
            assert outcomes == {"unreadable"}, (name, outcomes)
        if truth["expect"] == "readable":
            assert "unreadable" not in outcomes, (name, outcomes)
        if truth["expect"] == "too short":
            assert not outcomes & {"kept", "unreadable"}, (name, outcomes)
        readable = sum(row["end"] - row["start"] for row in rows if row["outcome"] != "unreadable") / 16_000
        if truth.get("ffmpeg_decoded_s") is not None and truth["expect"] in (
            "readable",
            "partial",
            "no speech",
            "too short",
        ):
            assert readable == pytest.approx(truth["ffmpeg_decoded_s"], abs=0.06), name


def test_the_broken_files_cost_nothing_else(crawl: Path, tmp_path: Path) -> None:
    """All 31 of them, the three hours in a few kilobytes too, with an energy VAD for speed."""
    manifest = crawl / "with_broken.jsonl"
    good = next(shortest(crawl))
    rows = [good, *lines(crawl / "broken" / "manifest_broken.jsonl")]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    settings = fast_engines.settings(
        str(tmp_path / "run"),
        str(manifest),
        "plan.unit_minutes=30",
        "execution.runner=local",
        "copilot.models={'*': hash}",
    )
    assert main(["run", str(config), *settings]) == 0
    check_broken(tmp_path / "run", crawl, leave_out={"square.wav"})  # loud, so speech to an energy VAD
    length = {record["path"]: record["duration_s"] for record in lines(crawl / "truth.jsonl")}[good["uri"]]
    mine = [row for row in rows_of(tmp_path / "run") if row["recording_id"] == good["uri"]]
    assert sum(row["end"] - row["start"] for row in mine) / 16_000 == pytest.approx(length, abs=0.05)
    assert all(row["outcome"] != "unreadable" for row in mine)


def test_real_recordings_through_real_engines(crawl: Path, tmp_path: Path) -> None:
    manifest = crawl / "sample.jsonl"
    broken = [row for row in lines(crawl / "broken" / "manifest_broken.jsonl") if "three-hours" not in row["uri"]]
    sample = list(shortest(crawl))
    manifest.write_text("".join(json.dumps(row) + "\n" for row in [*sample, *broken]))
    config = tmp_path / "empty.yaml"
    config.write_text("{}\n")
    assert main(["run", str(config), *real_engines(tmp_path / "plain", manifest, "execution.runner=local")]) == 0
    assert main(["run", str(config), *real_engines(tmp_path / "ray", manifest)]) == 0
    assert digest(tmp_path / "ray") == digest(tmp_path / "plain")

    check_broken(tmp_path / "ray", crawl, leave_out={"three-hours.flac"})
    rows = rows_of(tmp_path / "ray")
    kept = {row["clip_id"]: row for row in rows if row["outcome"] == "kept"}
    assert len(kept) >= 20
    assert all(2.0 <= (row["end"] - row["start"]) / 16_000 <= 30.0 for row in kept.values())
    assert {row["hypotheses"][0]["engine"].partition("/")[0] for row in kept.values()} == {"whisperx"}
    assert all(row["hypotheses"][0]["avg_logprob"] is not None and row["language"] for row in kept.values())
    for tar in (tmp_path / "ray").glob("shards/*/*.tar"):
        for sample_ in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            row = kept[sample_["__key__"]]
            assert soundfile.info(io.BytesIO(sample_["flac"])).frames == row["end"] - row["start"]
            assert sample_["txt"].decode() == row["label"]
    durations = {record["path"]: record["duration_s"] for record in lines(crawl / "truth.jsonl")}
    for row in sample:
        told = sum(r["end"] - r["start"] for r in rows if r["recording_id"] == row["uri"]) / 16_000
        assert told == pytest.approx(durations[row["uri"]], abs=0.05), row["uri"]
