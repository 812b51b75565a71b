"""What a manifest's other columns say of a speaker and a sound. It is a person's word: no annotator overrules it.

record ──known_labels──> age, gender, emotion, style, events, speaker, answer, as far as they are known
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

UNKNOWN = frozenset(("", "unk", "unknown", "none", "null", "nan", "n/a", "na", "-", "?"))
_BETWEEN_EVENTS = re.compile(r"[,;|]")


def known_labels(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a manifest's other columns say of a speaker and a sound.

    Only known values are in it, in lower case but for `speaker` and `answer`, never guessed; what data sets call a
    label (m, male) is for the trainer's scheme to know. `events` is a list, or a text with ",", ";" or "|" between; an
    empty list, or "none", says that there are none.
    """
    known: dict[str, Any] = {}
    for name in ("age", "gender", "emotion", "style", "speaker", "answer"):
        value = record.get(name)
        text = "" if value is None or isinstance(value, bool | list | dict) else str(value).strip()
        if text.lower() not in UNKNOWN:
            known[name] = text if name in ("speaker", "answer") else text.lower()
    events = record.get("events")
    if isinstance(events, str):
        text = events.strip().lower()
        if text == "none":
            events = []
        else:
            events = None if text in UNKNOWN else _BETWEEN_EVENTS.split(text)
    if isinstance(events, list):
        known["events"] = [each.strip().lower() for each in events if isinstance(each, str) and each.strip()]
    return known
