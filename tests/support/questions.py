"""Twelve clips for OSUM: beeps that spell a word, as known by their gender and their emotion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from model_training.data.index import Index
from operators.clip import Word
from operators.handoff_record import HandoffRecord
from operators.index import Row, write_index
from tests.support.corpus import RATE, make_handoff

EMOTIONS = ("neutral", "happiness", "anger")


def make_questions(folder: Path, *, clips: int = 12) -> Path:
    """A hand-off whose clips of train know text, gender, emotion, style, words and an answer."""
    make_handoff(folder, train=clips, dev=2, longest=3)
    for split in ("train", "dev"):
        index = Index.open(str(folder / f"{split}.arrow"))
        write_index(folder / f"{split}.arrow", [known(index.row(place), place) for place in range(len(index))])
    record = HandoffRecord.from_json((folder / "handoff.json").read_bytes(), "handoff.json")
    assert json.loads(record.to_json())["splits"]
    return folder


def known(row: Row, place: int) -> Row:
    return replace(
        row,
        label=row.label.lower(),
        emotion=EMOTIONS[place // 2 % 3],
        style=("news", "story")[place // 3 % 2],
        words=(Word(text=row.label.lower(), start=RATE // 10, end=RATE // 2),),
        answer=f"you said {row.label.lower()}",
    )
