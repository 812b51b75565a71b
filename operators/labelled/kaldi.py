"""A Kaldi data folder: wav.scp and text, with segments, utt2spk, spk2gender and utt2lang where they are there.

    text: utterance ──segments──> recording, start, end ──wav.scp──> path of its audio ──> rows of a manifest

A line of wav.scp may be a command that writes audio. None is ever run: from that of LibriSpeech's recipe (flac -c -d)
the file that it names is taken, any other makes its utterances unusable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from operators.errors import UserError
from operators.labelled.manifest import Row

_FLAC = re.compile(r"flac(?:\s+-\S+)*\s+(\S+\.flac)\s*\|")
_TEXTS = ("text", "trans.txt")


def is_kaldi(folder: Path) -> bool:
    return (folder / "wav.scp").is_file()


def read_kaldi(folder: Path) -> Iterator[Row]:
    """Yield the utterances of a Kaldi folder as rows of a manifest. Raises UserError for a folder without texts."""
    texts = next((folder / name for name in _TEXTS if (folder / name).is_file()), None)
    if texts is None:
        raise UserError(f"{folder} has a wav.scp and no text: give a Kaldi folder with both")
    recordings = _table(folder / "wav.scp")
    segments = _table(folder / "segments")
    speakers, genders, languages = (_table(folder / name) for name in ("utt2spk", "spk2gender", "utt2lang"))
    for number, (utterance, said) in enumerate(_table(texts).items(), start=1):
        recording, start, end = utterance, None, None
        if segments:
            parts = segments.get(utterance, "").split()
            if len(parts) != 3:
                yield number, f"{utterance} has no line 'recording start end' in segments"
                continue
            recording, start, end = parts
        place = recordings.get(recording)
        if place is None:
            yield number, f"{recording} is not in wav.scp"
            continue
        if place.endswith("|"):
            found = _FLAC.fullmatch(place)
            if found is None:
                yield number, f"its audio is a command, and none is run: write the path of a file ({place[:60]})"
                continue
            place = found[1]
        speaker = speakers.get(utterance)
        yield (
            number,
            {
                "uri": _beside(folder, place),
                "text": said,
                "start": start,
                "end": None if end == "-1" else end,
                "recording_id": recording,
                "speaker": speaker,
                "gender": genders.get(speaker or ""),
                "language": languages.get(utterance),
            },
        )


def _beside(folder: Path, place: str) -> str:
    """Return where a path of wav.scp lies: recipes write it from the folder that they run in."""
    if os.path.isabs(place) or "://" in place or (folder / place).exists():
        return place
    return os.path.abspath(place) if os.path.exists(place) else place


def _table(path: Path) -> dict[str, str]:
    """Return first word to the rest of every line; nothing where there is no such file. Raises UserError."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): want lines of UTF-8 text") from None
    pairs = (line.strip().split(maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}
