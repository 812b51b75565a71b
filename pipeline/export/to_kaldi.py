"""Kaldi's data folders, as ESPnet and everything behind kaldiio reads them.

    ExportedClip ──> kaldi/<split>/wav.scp  text  utt2spk  spk2utt  utt2dur  utt2num_samples  [segments]

`wav.scp` names a byte of a tar, `<utterance> <tar>:<offset>`, where kaldiio finds FLAC or WAV. All files are sorted by
bytes, as Kaldi asks. A speaker's name begins its utterances' names; where no speaker is known an utterance is its own.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from urllib.parse import quote

from operators.errors import UserError
from operators.storage.uri import uri_to_path
from pipeline.export.clips import ExportedClip, refuse_s3
from pipeline.export.writer import Writer

_READABLE = (".flac", ".wav")


class KaldiWriter(Writer):
    name = "kaldi"
    shows = 'kaldiio.load_scp("{place}/train/wav.scp")'

    def __init__(self, folder: Path, place: Path) -> None:
        super().__init__(folder, place)
        self._lines: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._stretches: set[str] = set()

    def add(self, clip: ExportedClip) -> None:
        refuse_s3(clip, "Kaldi")
        row, split = clip.row, clip.split
        name, path = _word(row.clip_id), uri_to_path(row.shard)
        if any(each.isspace() for each in path):
            raise UserError(f"{path} has a space in it, which no wav.scp can hold: move the run, or link to it")
        if clip.member is not None:
            if not clip.member.lower().endswith(_READABLE):
                raise UserError(
                    f"{clip.member} in {path}: kaldiio reads FLAC and WAV inside another file, no Opus; curate with "
                    "audio.codec=flac, or take another format"
                )
            path = f"{path}:{row.offset}"
        elif ":" in path:
            raise UserError(f"{path} has a colon in it, which kaldiio takes for an offset: link to it by another name")
        speaker = name if row.speaker is None else _word(row.speaker)
        utterance = name if row.speaker is None else f"{speaker}-{name}"
        recording = utterance
        if clip.samples != clip.file_samples:  # several utterances of one file
            self._stretches.add(split)
            recording = f"file-{quote(path, safe='')}"
            end = clip.start_seconds + clip.seconds
            self._add(split, "segments", utterance, f"{recording} {clip.start_seconds:.6f} {end:.6f}")
        else:
            self._add(split, "segments", utterance, f"{recording} 0.000000 {clip.seconds:.6f}")
        self._add(split, "wav.scp", recording, path)
        self._add(split, "text", utterance, clip.text)
        self._add(split, "utt2spk", utterance, speaker)
        self._add(split, "utt2dur", utterance, f"{clip.seconds:.6f}")
        self._add(split, "utt2num_samples", utterance, str(clip.samples))

    def _add(self, split: str, file: str, first: str, rest: str) -> None:
        self._lines[split, file].append(f"{first} {rest}".rstrip())

    def close(self) -> None:
        for (split, file), lines in self._lines.items():
            if file == "segments" and split not in self._stretches:
                continue
            for line in sorted(set(lines), key=str.encode):
                self.files.write("lines", f"{split}/{file}", line)
            if file == "utt2spk":
                utterances: dict[str, list[str]] = defaultdict(list)
                for line in sorted(lines, key=str.encode):
                    utterance, _, speaker = line.partition(" ")
                    utterances[speaker].append(utterance)
                for speaker in sorted(utterances, key=str.encode):
                    self.files.write("lines", f"{split}/spk2utt", " ".join([speaker, *utterances[speaker]]))
        super().close()


def _word(name: str) -> str:
    """Return a name without the spaces that would end it in a file of Kaldi's."""
    return "".join(quote(each, safe="") if each.isspace() else each for each in name) or "-"
