"""Word times of a clip as `show --format` prints them."""

from __future__ import annotations

from typing import Any

import pytest

from operators.errors import UserError
from operators.storage.local import LocalStore
from pipeline.show import captions

ROW: dict[str, Any] = {
    "recording_id": "talk 7",
    "start": 160_000,
    "outcome": "kept",
    "words": [{"text": "good", "start": 4000, "end": 8000}, {"text": "morning", "start": 8000, "end": 16_000}],
}


def shown(row: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("pipeline.show.find_clip", lambda store, clip_id: row)
    return captions(LocalStore(root="/nowhere"), "clip", form)


def test_captions_count_from_the_clip_and_scores_from_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(ROW, "vtt", monkeypatch).splitlines()[2:] == [
        "00:00:00.250 --> 00:00:01.000",
        "good <00:00:00.500>morning",
    ]
    assert shown(ROW, "ctm", monkeypatch) == "talk_7 1 10.250 0.250 good\ntalk_7 1 10.500 0.500 morning\n"
    assert shown(ROW | {"words": []}, "ctm", monkeypatch) == ""


@pytest.mark.parametrize(("outcome", "line"), [("kept", "set annotate.words.aligners"), ("rejected", "was rejected")])
def test_a_clip_without_times_is_a_line(outcome: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in (ROW | {"words": None}, {name: ROW[name] for name in ("recording_id", "start")}):
        with pytest.raises(UserError, match=line):
            shown(row | {"outcome": outcome}, "vtt", monkeypatch)
