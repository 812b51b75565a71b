"""Truth files, clips that engines have heard, and a made-up run with a truth, for the tests of label quality."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from operators.agreement import AgreementRule
from operators.clip import SAMPLE_RATE
from operators.text.spoken import Normaliser, tokens
from pipeline.score.counts import ScoreSettings, count
from pipeline.score.result import Score, summarise
from pipeline.score.truth import read_truth
from tests.support.synthetic_run import PROFILES, clip_row, make_run, rejected, table

SECOND = SAMPLE_RATE


def truth_line(
    recording: str, language: str | None, *segments: tuple[float, float, str | None], **more: Any
) -> dict[str, Any]:
    listed = [{"start_s": a, "end_s": b} | ({} if text is None else {"text": text}) for a, b, text in segments]
    return {"recording_id": recording, "language": language, "segments": listed} | more


def truth_bytes(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def heard(
    start: float, end: float, language: str, asr: str, copilot: str | None = None, **columns: Any
) -> dict[str, Any]:
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


def scored(rows: list[dict[str, Any]], truth: bytes, rule: AgreementRule | None = None, **asked: Any) -> Score:
    rule = rule or AgreementRule()
    settings = ScoreSettings(**asked)
    counts = count([table(rows)], read_truth(truth, "truth.jsonl"), settings, rule, Normaliser())
    return summarise(counts, settings, rule)


def near(percent: float) -> Any:
    return pytest.approx(percent, abs=1e-9)


@pytest.fixture(scope="session")
def crawl_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pa.Table], bytes]:
    """Ledgers of a made-up run, and a truth from which the engines differ in words of their own and in words they
    share.
    """
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


def score_of(crawl_run: tuple[list[pa.Table], bytes], rule: AgreementRule, **asked: Any) -> Score:
    ledgers, truth = crawl_run
    settings = ScoreSettings(**asked)
    counts = count(ledgers, read_truth(truth, "t"), settings, rule, Normaliser())
    return summarise(counts, settings, rule)


@pytest.fixture(scope="session")
def whole(crawl_run: tuple[list[pa.Table], bytes]) -> Score:
    return score_of(crawl_run, AgreementRule())


TRUTH = truth_bytes(
    truth_line("zh-1", "zh", (0, 4, "今天天气很好。"), (5, 9, "我们去公园"), (10, 14, "大家安静")),
    truth_line("en-1", "en", (0, 4, "Good morning, everyone."), (5, 9, "turn left at the lights")),
)
ROWS = [
    clip("book", "zh-1", **heard(0, 4, "zh", "今天天气很好", "今天天气很好"), label="今天天气很好"),
    clip("book", "zh-1", **heard(5, 9, "zh", "我们去公元", "我们去公元"), label="我们去公元"),
    clip("book", "zh-1", **heard(10, 14, "zh", "大家安静", "大家安全", wer=25.0, per=20.0),
         **rejected("rover", "wer_and_per")),
    clip("live", "en-1", **heard(0, 4, "en", "good morning everyone", "good morning eve ryone", wer=66.7, per=0.0),
         **rejected("rover", "wer")),
    clip("live", "en-1", **heard(5, 9, "en", "Turn left at the light.", "turn left at the lights", wer=20.0, per=7.0),
         **rejected("rover", "wer_and_per")),
    clip("live", "en-1", **heard(10, 14, "en", "thank you"), **rejected("transcribe", "stock_phrase")),
]  # fmt: skip
"""Six clips, and what was said in them: every number of their score is worked out by hand in the tests."""
