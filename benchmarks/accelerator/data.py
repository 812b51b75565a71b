"""What rows are worked on: the demo crawl as a hand-off, its clips, and batches that are made up.

examples/demo_crawl ──truth.jsonl──> clips ──FLAC, one shard──> hand-off (made once, in the folder that rows share)
sizes ──seed──> synthetic Batch of the elastic model
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE

if TYPE_CHECKING:
    from model_training.data.reading import Batch

ROOT = Path(__file__).resolve().parents[2]
CRAWL = ROOT / "examples" / "demo_crawl"
STARTERS = ROOT / "examples" / "starter_engines" / "models"


@dataclass(frozen=True, slots=True)
class DemoClip:
    recording: str
    language: str
    text: str
    pcm: np.ndarray
    """int16 at 16 kHz"""


def recordings() -> list[Path]:
    """Return the recordings of the demo crawl that have words."""
    return [CRAWL / "crawl" / record["path"] for record in _truth()]


def clips(most: int | None = None) -> Iterator[DemoClip]:
    """Yield the segments of the demo crawl that have words, cut by its truth; those of so many recordings at most."""
    for record in _truth()[:most]:
        pcm = decode(str(CRAWL / "crawl" / record["path"])).pcm
        for segment in record["segments"]:
            first, last = (int(segment[end] * SAMPLE_RATE) for end in ("start_s", "end_s"))
            text, language = segment.get("text") or "", segment.get("language") or record["language"]
            if text and last - first < 30 * SAMPLE_RATE:
                yield DemoClip(record["recording_id"], language, text, pcm[first:last])


def handoff(work: Path, most: int | None = None, times: int = 1, *, few: bool = False) -> str:
    """Return a hand-off of the clips, each as often as `times` says, made where it is not there yet.

    `few`: of a dozen clips only.
    """
    import soundfile

    from model_training.data.features import Cmvn
    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme
    from operators.filterbank import MelSums, filterbank
    from operators.handoff_record import HandoffRecord, Split
    from operators.index import Row, write_index
    from operators.shard import feature_frames

    out = work / ("handoff-few" if few else f"handoff-{most or 'all'}-{times}")
    if (out / "handoff.json").exists():
        return str(out)
    out.mkdir(parents=True, exist_ok=True)
    rows, sums, labels, shard = [], MelSums(), [], io.BytesIO()
    for number, clip in enumerate(islice(clips(most), 12 if few else None)):
        offset = shard.tell()
        flac = io.BytesIO()
        soundfile.write(flac, clip.pcm, SAMPLE_RATE, format="FLAC")
        shard.write(flac.getvalue())
        sums = sums.add(filterbank(clip.pcm))
        labels.append(clip.text)
        for again in range(times):
            rows.append(
                Row(
                    clip_id=f"clip-{again:03d}-{number:05d}",
                    shard=str(out / "clips.flacs"),
                    offset=offset,
                    size=shard.tell() - offset,
                    frames=feature_frames(len(clip.pcm)),
                    label_tokens=len(clip.text),
                    label=clip.text,
                    domain="demo",
                    language=clip.language,
                    recording_id=clip.recording,
                )
            )
    (out / "clips.flacs").write_bytes(shard.getvalue())
    Tokenizer.train(labels, Scheme(), bpe_size=100).save(out / "tokenizer")
    (out / "cmvn.json").write_text(json.dumps(Cmvn.of(sums).to_dict(sums.frames)))
    write_index(out / "train.arrow", rows)
    hours = sum(row.frames for row in rows) / 360_000
    splits = {"train": Split(index="train.arrow", clips=len(rows), hours=hours)}
    (out / "handoff.json").write_text(HandoffRecord(splits=splits).to_json())
    return str(out)


def synthetic(clips: int, frames: int, tokens: int, vocabulary: int, number: int) -> Batch:
    """Return a micro-batch of noise: clips of one length, with labels of one length that mean nothing."""
    import torch

    from model_training.data.reading import Batch

    random = torch.Generator().manual_seed(number)
    ids_BU = torch.randint(10, vocabulary, (clips, tokens), generator=random)
    first_B1, last_B1 = torch.full((clips, 1), 2), torch.full((clips, 1), 3)
    lengths_B = torch.full((clips,), tokens)
    return Batch(
        features_BT80=torch.randn(clips, frames, 80, generator=random),
        feature_lengths_B=torch.full((clips,), frames),
        ctc_targets_BU=ids_BU,
        ctc_lengths_B=lengths_B,
        decoder_inputs_BL=torch.cat([first_B1, ids_BU], 1),
        decoder_targets_BL=torch.cat([ids_BU, last_B1], 1),
        decoder_lengths_B=lengths_B + 1,
        content_B2=torch.tensor([[0, tokens]]).expand(clips, 2),
        events_known_B=torch.ones(clips, dtype=torch.bool),
        clip_ids=[f"noise-{number}-{clip}" for clip in range(clips)],
        rows=[],
        global_batch=number,
        bad=(),
    )


def _truth() -> list[dict]:  # type: ignore[type-arg]
    with open(CRAWL / "truth.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [one for one in records if any(segment.get("text") for segment in one["segments"])]
