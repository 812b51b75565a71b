"""The command `mix-events`: two manifests in, a labelled set with vocal events out.

    SPEECH ──rows──> clips, words of each (aligner) ─┐
    EVENTS ──rows──> sounds with one event each ─────┴─draw, by seed, clip and copy──mix──> SET: audio/*.flac,
                                                                                        manifest.jsonl, skipped.jsonl

The set is a labelled set as `handoff --labelled` reads one; a person can play its files beside their texts.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from operators.annotate.annotator import Aligner, Heard
from operators.annotate.words import words_of
from operators.audio.decode import AudioError, FileRange, decode, encode_flac
from operators.clip import SAMPLE_RATE, Word
from operators.errors import UserError
from operators.storage.base import AccessRefused, S3Settings, Store
from operators.storage.fetch import Fetch, open_store
from pipeline.config import SourceSettings
from pipeline.display.words import printable
from pipeline.mix_events.mix import Placed, draw, mix
from pipeline.sources.files import SourceFile, read_sources

EXAMPLES = """\
SPEECH and EVENTS are manifests of labelled sets; a row of EVENTS has one event in 'events'. Every clip of SPEECH gets
an event between two of its words, where there is a pause, or at its start or end; the text says where. Words are timed
by pocketsphinx in English, by an exported model of yours with --align; where neither can, events go to the edges.

examples:
  python -m pipeline mix-events speech.jsonl coughs.jsonl --out sets/coughs
  python -m pipeline mix-events speech.jsonl esc50.jsonl --out sets/events --copies 3 --seed 7 --align models/edge
  python -m pipeline handoff runs/first --labelled sets/coughs/manifest.jsonl --out handoff"""

_EVENT = re.compile(r"[^\s<>:|]+")
_TAG = re.compile(r"<event:[^\s<>:|]+>")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `mix-events`."""
    command.add_argument("speech", metavar="SPEECH", help="manifest of clips with text")
    command.add_argument("events", metavar="EVENTS", help="manifest of sounds with an event each")
    command.add_argument("--out", metavar="SET", required=True, help="folder of the new set, local or s3://")
    command.add_argument("--copies", type=int, default=1, metavar="N", help="mixtures of a clip (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of every choice (default: %(default)s)")
    command.add_argument("--align", metavar="FOLDER", help="an exported model, to time words of any language it knows")
    command.add_argument("settings", metavar="key=value", nargs="*", default=[], help="s3.* settings")


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A row of a manifest with its audio."""

    file: SourceFile
    start: int
    """in the file, in samples"""
    pcm: np.ndarray
    text: str
    events: tuple[str, ...]


class _Unusable(Exception):
    """(reason, detail) of a row that is skipped."""


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Make the set, say what is in it, and return the exit code. Raises UserError."""
    from pipeline.config import load

    if arguments.copies < 1:
        raise UserError(f"--copies {arguments.copies}: at least 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: 0 or more")
    s3 = load(None, arguments.settings).s3
    store = open_store(arguments.out, s3)
    if store.exists("manifest.jsonl"):
        raise UserError(f"{arguments.out} holds a set already: give --out another folder")
    skipped: list[dict[str, str]] = []
    events = [row for row in _rows(arguments.events, s3, skipped) if _has_event(row, arguments.events, skipped)]
    if not events:
        raise UserError(f"no row of {arguments.events} can be used: {_first(skipped, arguments.events)}")
    aligners = _aligners(arguments.align)
    rows: list[dict[str, Any]] = []
    for number, speech in enumerate(_rows(arguments.speech, s3, skipped)):
        if not _TAG.sub("", speech.text).strip():
            skipped.append(_skip(arguments.speech, speech.file, "no_text", "a row of speech needs 'text'"))
            continue
        words = _words(speech, aligners)
        for copy in range(arguments.copies):
            rng = np.random.default_rng([arguments.seed, number, copy])
            event = events[int(rng.integers(len(events)))]
            try:
                rows.append(_mixed(store, speech, words, event, rng, f"{number:06d}-{copy}"))
            except ValueError as error:
                skipped.append(_skip(arguments.speech, speech.file, "silent", str(error)))
    if not rows:
        raise UserError(f"no row of {arguments.speech} can be used: {_first(skipped, arguments.speech)}")
    if skipped:
        store.put("skipped.jsonl", _lines(skipped))
    store.put("manifest.jsonl", _lines(rows))  # last: its presence says that the set is whole
    _say(console, store, rows, skipped)
    return 0


def _mixed(
    store: Store, speech: _Row, words: Sequence[Word], event: _Row, rng: np.random.Generator, name: str
) -> dict[str, Any]:
    """Write one mixture, and return its row."""
    label = event.events[0]
    placed: Placed = draw(rng, len(speech.pcm), words, len(words_of(speech.text)))
    mixture = mix(speech.pcm, speech.text, event.pcm, label, placed)
    key = f"audio/{name}.flac"
    store.put(key, encode_flac(mixture.pcm))
    known = {
        column: value
        for column, value in speech.file.provenance.items()
        if column not in ("uri", "text", "start", "end", "events")
    }
    known_events = [*speech.events, label]
    return {
        "uri": key,
        "text": mixture.text,
        "domain": speech.file.domain,
        **({"language": speech.file.language} if speech.file.language else {}),
        **known,
        # What else is in a recording nobody knows, unless its row said so.
        **({"events": known_events} if "events" in speech.file.provenance else {}),
        # As the hand-off names recordings of a labelled set, so that a clip and its mixtures stay in one split.
        "recording_id": speech.file.recording_id if speech.file.named else speech.file.uri,
        "mixed": {
            "speech": speech.file.uri,
            "speech_start": round(speech.start / SAMPLE_RATE, 4),
            "event": event.file.uri,
            "event_start": round(mixture.event_start / SAMPLE_RATE, 4),
            "event_seconds": round(mixture.event_samples / SAMPLE_RATE, 4),
            **{key: value for key, value in asdict(placed).items() if key not in ("at", "after_words")},
        },
    }


def _rows(manifest: str, s3: S3Settings, skipped: list[dict[str, str]]) -> Iterator[_Row]:
    """Yield the rows of a manifest whose audio can be heard; the others go to `skipped`."""
    fetch = Fetch(s3)
    for file in read_sources([SourceSettings(path=manifest, domain=Path(manifest).stem)], s3):
        if file.problem is not None and file.problem.reason != "duplicate":
            skipped.append(_skip(manifest, file, file.problem.reason, file.problem.detail))
            continue
        try:
            yield _row(file, fetch)
        except AudioError as error:
            skipped.append(_skip(manifest, file, error.reason, error.detail))
        except FileNotFoundError:
            skipped.append(_skip(manifest, file, "missing", "there is no such file"))
        except AccessRefused as error:
            skipped.append(_skip(manifest, file, "permission", str(error)))
        except _Unusable as error:
            skipped.append(_skip(manifest, file, *error.args))


def _row(file: SourceFile, fetch: Fetch) -> _Row:
    record = file.provenance
    start, end = (_seconds(record.get(name), name) for name in ("start", "end"))
    with fetch.fetch(file.uri, file.member) as path:
        source = path if file.member is None else FileRange(path, *file.member)
        pcm = decode(source, (start or 0, end)).pcm
    if not len(pcm):
        raise _Unusable("bad_span", f"there is no audio from {record.get('start')!r} on")
    text, events = record.get("text"), record.get("events")
    if isinstance(events, str):
        events = re.split(r"[,;|]", events)
    named = tuple(str(each).strip().lower() for each in events) if isinstance(events, list) else ()
    return _Row(file, start or 0, pcm, " ".join(text.split()) if isinstance(text, str) else "", named)


def _seconds(value: Any, name: str) -> int | None:
    if value in (None, ""):
        return None
    try:
        samples = round(float(value) * SAMPLE_RATE)
    except (TypeError, ValueError, OverflowError):
        samples = -1
    if samples < 0:
        raise _Unusable("bad_span", f"{name} {value!r} is no second of the file")
    return samples


def _has_event(row: _Row, manifest: str, skipped: list[dict[str, str]]) -> bool:
    if len(row.events) == 1 and _EVENT.fullmatch(row.events[0]) and row.events[0] != "none":
        return True
    skipped.append(_skip(manifest, row.file, "no_event", "a row of EVENTS needs one label in 'events'"))
    return False


def _aligners(folder: str | None) -> list[Aligner]:
    from operators.align.aligners import PocketsphinxAligner
    from pipeline.engines import imported

    if folder is None:
        return [PocketsphinxAligner()]
    own: Callable[..., Aligner] = imported("model_training.decoding.align:ExportedAligner")
    return [PocketsphinxAligner(), own(folder)]


def _words(speech: _Row, aligners: Sequence[Aligner]) -> tuple[Word, ...]:
    """Return the words of a clip by the first aligner that can time all of them, () where none can."""
    if _TAG.search(speech.text):  # it has an event already, and what is between its words is not known
        return ()
    heard = Heard(pcm=speech.pcm, text=speech.text, language=speech.file.language)
    for aligner in aligners:
        (words,) = aligner.align([heard])
        if words is not None and len(words) == len(words_of(speech.text)):
            return words
    return ()


def _skip(manifest: str, file: SourceFile, reason: str, detail: str = "") -> dict[str, str]:
    return {"manifest": manifest, "row": file.uri, "reason": reason, "detail": detail}


def _first(skipped: Sequence[dict[str, str]], manifest: str) -> str:
    """Return why the first row of a manifest that cannot be used cannot."""
    own = [each for each in skipped if each["manifest"] == manifest]
    return f"the first, {own[0]['row']}: {own[0]['reason']} ({own[0]['detail']})" if own else "it is empty"


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def _say(console: Console, store: Store, rows: Sequence[dict[str, Any]], skipped: Sequence[object]) -> None:
    where = {place: sum(row["mixed"]["where"] == place for row in rows) for place in ("start", "pause", "end")}
    places = ", ".join(
        f"{count} {'in a pause' if place == 'pause' else f'at the {place}'}" for place, count in where.items()
    )
    console.print(f"{len(rows)} clips: {places}; {len(skipped)} rows skipped", highlight=False)
    console.print(f"set: {printable(store.url('manifest.jsonl'))}", markup=False, highlight=False, soft_wrap=True)
