"""Folders of audio with their texts beside them, as LibriSpeech and AISHELL-1 are unpacked.

LibriSpeech/test-clean/61/70968/61-70968.trans.txt, 61-70968-0000.flac ──┐
data_aishell/transcript/*.txt, wav/test/S0764/BAC009S0764W0121.wav ──────┴──> rows of a manifest
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from operators.errors import UserError
from operators.labelled.manifest import Row

_TRANSCRIPTS = "*.trans.txt"
_AISHELL = "aishell_transcript*.txt"


def is_librispeech(folder: Path) -> bool:
    return next(folder.glob(f"*/*/{_TRANSCRIPTS}"), None) is not None


def read_librispeech(folder: Path) -> Iterator[Row]:
    """Yield the utterances below a folder such as LibriSpeech/test-clean; genders where SPEAKERS.TXT lies above it."""
    genders = _genders(folder)
    number = 0
    for path in sorted(folder.glob(f"*/*/{_TRANSCRIPTS}")):
        chapter, speaker = path.parent, path.parent.parent.name
        for line in path.read_text("utf-8").splitlines():
            number += 1
            name, _, said = line.strip().partition(" ")
            audio = [chapter / f"{name}{ending}" for ending in (".flac", ".wav", ".opus")]
            row = {
                "uri": str(next((each for each in audio if each.exists()), audio[0]).absolute()),
                "text": said,
                "recording_id": f"{speaker}-{chapter.name}",
                "speaker": speaker,
                "gender": genders.get(speaker),
                "language": "en",
            }
            yield number, row


def _genders(folder: Path) -> dict[str, str]:
    above = (folder, *folder.absolute().parents[:2])
    listed = next((each / "SPEAKERS.TXT" for each in above if (each / "SPEAKERS.TXT").is_file()), None)
    if listed is None:
        return {}
    lines = (line.split("|") for line in listed.read_text("utf-8", "replace").splitlines() if not line.startswith(";"))
    return {parts[0].strip(): parts[1].strip() for parts in lines if len(parts) > 1}


def aishell_texts(folder: Path) -> Path | None:
    """Return the transcripts of AISHELL-1 that belong to a folder such as data_aishell/wav/test, if it is one."""
    places = (above / "transcript" for above in folder.absolute().parents[:2])
    return next((found for place in places for found in sorted(place.glob(_AISHELL))), None)


def read_aishell(folder: Path, texts: Path) -> Iterator[Row]:
    """Yield the utterances below a folder such as data_aishell/wav/test. Raises UserError where there are none."""
    lines = (line.strip().partition(" ") for line in texts.read_text("utf-8").splitlines())
    said = {name: text for name, _, text in lines if name}
    found = sorted(folder.glob("**/*.wav"))
    if not found:
        raise UserError(f"there is no .wav below {folder}: unpack the speakers' archives of AISHELL-1")
    for number, path in enumerate(found, start=1):
        row = {"uri": str(path.absolute()), "text": said.get(path.stem), "speaker": path.parent.name, "language": "zh"}
        yield number, row if row["text"] else f"{path.name} has no transcript"
