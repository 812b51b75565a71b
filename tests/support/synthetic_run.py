"""A run directory as the pipeline leaves it, made up from a seed: ledgers, tars with real FLAC, speed records.

domain profiles ──seeded draws──> ledger rows that tile made-up recordings ──> shards/<domain>/<unit>.{parquet,tar},
speed/
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from operators.audio.decode import encode_flac
from operators.clip import SAMPLE_RATE, Span, clip_id
from operators.shard import LEDGER_SCHEMA, ledger_bytes, read_ledger
from stages.write_shard import shard_keys

ZH = """今天 天气 很好 我们 一起 去 公园 散步 然后 回家 做饭 老师 说 明天 考试 取消 新闻 报道 经济 增长 百分之 五
请 大家 安静 开始 上课 声音 清楚"""
EN = """the old house stood by river and nobody had lived there for twenty years they say wind carries voices across
water at night"""
YUE = "今日 天氣 好好 我哋 一齊 去 飲茶 喺 香港 住 咗 十年 你 知唔知 呢度 好多 嘢 食"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a domain is like: shares of time and how much the two recognisers differ."""

    language: str = "zh"
    units: int = 3
    speech: float = 0.8
    disagreement: float = 0.05
    hallucinated: float = 0.03
    words: str = ZH


PROFILES: dict[str, Profile] = {
    "audiobook": Profile(units=4, speech=0.9, disagreement=0.015),
    "newsread": Profile(units=3, speech=0.86, disagreement=0.025, language="en", words=EN),
    "podcast": Profile(units=5, speech=0.82, disagreement=0.06),
    "classroom": Profile(units=4, speech=0.62, disagreement=0.1),
    "live": Profile(units=3, speech=0.48, disagreement=0.16, hallucinated=0.12),
    "訪談 cantonese": Profile(units=2, speech=0.75, disagreement=0.2, language="yue", words=YUE),
    "meeting": Profile(units=2, speech=0.55, disagreement=0.3, language="en", words=EN),
    "sounds": Profile(units=1, speech=0.06, disagreement=0.6, hallucinated=0.6),
}


class FolderStore:
    """The few calls of a run's store that a report makes, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        return self.read(key)[offset : offset + size]

    def put(self, key: str, data: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(data)

    def ledgers(self) -> Iterator[pa.Table]:
        for path in sorted((self.root / "shards").rglob("*.parquet")):
            yield read_ledger(path.read_bytes())[0]

    def speeds(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.root / "speed").glob("*.json"))]


def make_run(
    root: Path,
    profiles: Mapping[str, Profile] = PROFILES,
    *,
    seed: int = 0,
    recordings: int = 4,
    minutes: float = 4,
    audio: Callable[[int], bytes] | None = None,
) -> FolderStore:
    """A finished run: `recordings` of `minutes` to 2.5 times that in each unit of each domain."""
    store = FolderStore(root)
    for index, (domain, profile) in enumerate(sorted(profiles.items())):
        draw = np.random.default_rng((seed, index))
        for number in range(profile.units):
            name = "".join(each if each.isalnum() else "-" for each in domain) or "unnamed"
            unit_id = f"{name}-{number:06d}"
            rows = []
            for at in range(recordings):
                rows += _recording(draw, domain, profile, f"{domain}/{number:02d}{at:02d}.opus", minutes)
            if number == 0:
                rows += _broken(domain)
            write_unit(store, unit_id, [row | {"unit_id": unit_id} for row in rows], audio or sound)
    store.put("speed/2026-05-04T101500Z.json", json.dumps(_speed(2400.0)).encode())
    store.put("speed/2026-05-04T163000Z.json", json.dumps(_speed(900.0)).encode())
    return store


def write_unit(
    store: FolderStore, unit_id: str, rows: list[dict[str, Any]], sound_of: Callable[[int], bytes] | None = None
) -> None:
    """A unit's tar, with a sound for every kept row, and its ledger."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            if row["outcome"] == "kept":
                audio = (sound_of or sound)(row["end"] - row["start"])
                row |= {"tar_offset": buffer.tell() + tarfile.BLOCKSIZE, "tar_size": len(audio)}
                info = tarfile.TarInfo(f"{row['clip_id']}.flac")
                info.size = len(audio)
                tar.addfile(info, io.BytesIO(audio))
    tar_key, _, ledger_key = shard_keys(unit_id)
    store.put(tar_key, buffer.getvalue())
    store.put(ledger_key, ledger_bytes(rows, {"unit_id": unit_id}))


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA)


@cache
def sound(samples: int) -> bytes:
    """FLAC of a melody over soft noise, as long as asked for."""
    at = np.arange(samples) / SAMPLE_RATE
    pitch = 220 * 2 ** (np.floor(at * 3) % 5 / 6)
    melody = (
        np.sin(2 * math.pi * np.cumsum(pitch) / SAMPLE_RATE)
        * np.minimum(1, (at * 3) % 1 * 8)
        * np.exp(-((at * 3) % 1) * 2)
    )
    noise = np.random.default_rng(samples).standard_normal(samples)
    return encode_flac((melody * 9000 + noise * 40).astype(np.int16))


def clip_row(domain: str, recording_id: str, start: int, end: int, **columns: Any) -> dict[str, Any]:
    """A clip's row; kept unless `columns` say otherwise."""
    clip = {
        "outcome": "kept",
        "clip_id": clip_id(recording_id, Span(start, end)),
        "speech_samples": (end - start) * 9 // 10,
    }
    return stretch_row(domain, recording_id, start, end, **clip | columns)


def stretch_row(domain: str, recording_id: str, start: int, end: int, **columns: Any) -> dict[str, Any]:
    """A row that holds no clip; non-speech unless `columns` say otherwise."""
    return {
        "unit_id": "unit-000000",
        "domain": domain,
        "recording_id": recording_id,
        "uri": f"crawl/{recording_id}",
        "start": start,
        "end": end,
        "outcome": "non_speech",
    } | columns


def rejected(stage: str, reason: str, detail: str | None = None) -> dict[str, Any]:
    return {"outcome": "rejected", "stage": stage, "reason": reason, "detail": detail}


def unreadable(stage: str, reason: str, detail: str | None = None) -> dict[str, Any]:
    return {"outcome": "unreadable", "stage": stage, "reason": reason, "detail": detail}


def _recording(
    draw: np.random.Generator, domain: str, profile: Profile, name: str, minutes: float
) -> Iterator[dict[str, Any]]:
    at, end = 0, int(draw.uniform(minutes, 2.5 * minutes) * 120) * SAMPLE_RATE // 2
    provenance = json.dumps({"source_url": "https://example.org/episodes/42", "license": "CC BY 4.0"})
    while at < end:
        if draw.random() < profile.speech:
            length = (
                1.0 + draw.random() / 2 if draw.random() < 0.05 else float(np.clip(draw.lognormal(2.0, 0.6), 2, 30))
            )
            stop = min(end, at + int(round(length * 2) * SAMPLE_RATE / 2))
            yield _clip(draw, domain, profile, name, at, stop) | {"provenance": provenance}
        else:
            stop = min(end, at + max(1, int(draw.exponential(8 * (1.2 - profile.speech) / 0.4) * 2)) * SAMPLE_RATE // 2)
            yield stretch_row(domain, name, at, stop)
        at = stop


def _clip(draw: np.random.Generator, domain: str, profile: Profile, name: str, start: int, end: int) -> dict[str, Any]:
    seconds = (end - start) / SAMPLE_RATE
    if seconds < 2:
        return clip_row(domain, name, start, end, **rejected("segment", "too_short"))
    joiner = "" if profile.language != "en" else " "
    vocabulary = profile.words.split()
    words = [str(word) for word in draw.choice(vocabulary, max(1, int(seconds * draw.normal(2.2, 0.4))))]
    asr = joiner.join(words)
    first = {"engine": "whisperx large-v3", "text": asr, "language": profile.language, "language_prob": 0.97}
    common = {"language": profile.language, "hypotheses": [first]}
    if draw.random() < profile.hallucinated:
        reason = str(draw.choice(["loop", "stock_phrase", "low_logprob", "too_fast"]))
        return clip_row(domain, name, start, end, **common, **rejected("transcribe", reason))
    if profile.language == "yue" and draw.random() < 0.3:
        return clip_row(domain, name, start, end, **common, **rejected("copilot", "no_copilot", "no model for yue"))
    share = min(1.0, draw.exponential(profile.disagreement))
    heard = [str(draw.choice(vocabulary)) if draw.random() < share else word for word in words]
    heard = heard[1:] if draw.random() < share else heard
    copilot = joiner.join(heard)
    tokens = len(asr) if not joiner else len(words)
    wer = round(100 * share * float(draw.uniform(0.7, 1.4)), 2) if heard != words else 0.0
    per = round(wer * float(draw.uniform(0.2, 0.9)), 2)
    both = [first, {"engine": "paraformer-zh", "text": copilot}]
    measured = {
        "language": profile.language,
        "hypotheses": both,
        "asr_norm": asr,
        "copilot_norm": copilot,
        "reference": "copilot" if profile.language == "zh" else "asr",
        "wer": wer,
        "per": per,
        "tokens_per_second": tokens / seconds,
    }
    if wer <= 10 and per <= 5:
        return clip_row(domain, name, start, end, **measured, label=asr)
    reason = "wer_and_per" if wer > 10 and per > 5 else "wer" if wer > 10 else "per"
    return clip_row(
        domain, name, start, end, **measured, **rejected("rover", reason, f"WER {wer:.1f} %, PER {per:.1f} %")
    )


def _broken(domain: str) -> list[dict[str, Any]]:
    return [
        stretch_row(domain, f"{domain}/cut.mp3", 0, 50 * SAMPLE_RATE),
        stretch_row(
            domain, f"{domain}/cut.mp3", 50 * SAMPLE_RATE, 75 * SAMPLE_RATE, **unreadable("decode", "truncated")
        ),
        stretch_row(domain, f"{domain}/page.mp3", 0, 0, **unreadable("decode", "not_audio", "Invalid data found")),
        stretch_row(domain, f"{domain}/0000.opus", 0, 0, **unreadable("plan", "duplicate")),
    ]


def _speed(wall: float) -> dict[str, Any]:
    # name: x real time, share of the time at work, device
    stages = {
        "Segment": (150.0, 0.27, "cpu"),
        "Transcribe": (41.0, 0.93, "gpu"),
        "Copilot": (120.0, 0.3, "gpu"),
        "Rover": (2600.0, 0.02, "cpu"),
        "WriteShard": (900.0, 0.05, "cpu"),
    }
    return {
        "started": "2026-05-04T10:00:00Z",
        "finished": "2026-05-04T10:15:00Z",
        "units": 12,
        "input_seconds": wall * 38,
        "wall_seconds": wall,
        "stages": {
            name: {"busy_seconds": wall * share, "audio_seconds": wall * share * factor, "actors": 1, "device": device}
            for name, (factor, share, device) in stages.items()
        },
    }
