"""Plain WebDataset tars made elsewhere become a folder that can be trained on, with no run of ours behind it.

    x.tar ──members_of──> places ──webdataset's grouping──> key: flac|wav|ogg|opus|mp3, txt [, json] ──> Row, features
    Rows ──recordings tied by speaker──hash──> train | dev | test.arrow    features of train ──MelSums──> cmvn.json
    handoff.json ties them together; what cannot be used is named in bad_samples.jsonl

The tars stay where they are; the index points into them.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from model_training.data.audio import BadSample, decode
from model_training.data.features import Cmvn
from operators.clip import Word
from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.handoff_record import Domain, HandoffRecord, S3Place, Split
from operators.index import Row, write_index
from operators.split import SPLITS, NodeTable, Shares, split_table
from operators.storage.atomic import replace
from operators.storage.base import S3Settings
from operators.storage.fetch import RangedFile, locate, open_store
from operators.storage.tar_members import Member, TarError, members_of
from operators.storage.uri import path_to_uri
from operators.text.spoken import tokens

AUDIO = ("flac", "wav", "ogg", "opus", "mp3")
_SUFFIXES = {*AUDIO, "json", "txt"}
_BUFFER_BYTES = 8 << 20
"""What one read of a tar asks for: few requests to a store, and little memory."""
_ATTRIBUTES = ("language", "age", "gender", "emotion", "style")
_MEASURES = ("snr_db", "bandwidth_hz", "clipped", "dnsmos_ovrl")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """The settings say how plain tars are shared out."""

    dev_share: float = 0.02
    test_share: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.dev_share, self.test_share) < 0 or self.dev_share + self.test_share >= 1:
            raise UserError(
                f"dev {self.dev_share} and test {self.test_share} leave nothing to train on: want small shares"
            )


def index_from_tars(
    uris: Sequence[str],
    out: Path,
    settings: IndexSettings | None = None,
    *,
    s3: S3Settings | None = None,
    build_tokenizer: Callable[[Sequence[Row], Path], object] | None = None,
) -> HandoffRecord:
    """Write the hand-off folder `out` for these tars (local or s3://) and return what handoff.json says.

    `build_tokenizer(rows of train, folder)` is called at the end. A sample's `.json` may name language, age, gender,
    emotion, style, events, recording_id, speaker, domain and text, and what else our own shards say (answer, words and
    quality); the domain is else the name of the tar's folder. A clip's
    id is its key, and with several tars `x.tar#key`: keys often start again in each. A speaker is in one split only.
    More tars move nobody to another split but train, where they show that two speakers or recordings are one.

    Raises:
        UserError: a tar is missing, compressed or damaged; no sample could be used.
    """
    settings, s3 = settings or IndexSettings(), s3 or S3Settings()
    if not uris:
        raise UserError("no tar to index: name at least one")
    good, seen, bad = list[tuple[int, Row]](), set[str](), list[BadSample]()
    table, sums = NodeTable(), dict[int, MelSums]()  # sums by recording: its split is known when all tars are
    names = _names(uris)
    for source, uri in enumerate(uris):
        for made in _scan(uri, names[_place(uri)], s3):
            if isinstance(made, BadSample):
                bad.append(made)
                continue
            row, features = made
            if row.clip_id in seen:
                bad.append(BadSample(row.clip_id, "duplicate", f"it stands earlier than in {uri}"))
                continue
            seen.add(row.clip_id)
            node = table.recording(row.recording_id, None, row.speaker, source)
            good.append((node, row))
            sums[node] = sums.get(node, MelSums()).add(features)
    if not good:
        raise UserError(f"none of the {len(bad)} samples can be trained on: see the samples' form in the docs")
    shares = Shares(dev=settings.dev_share, test=settings.test_share, seed=settings.seed)
    splits, groups = split_table(table, shares, runs=len(uris))
    rows = {split: [row for node, row in good if splits[node] == place] for place, split in enumerate(SPLITS)}
    if not rows["train"]:
        raise UserError(
            f"the {len(good)} samples are of {len(set(groups.tolist()))} speakers or recordings, none of which fell to "
            "train: give smaller shares or another seed"
        )
    train_sums = sum((sums[node] for node in sums if splits[node] == 0), MelSums())
    (out / "handoff.json").unlink(missing_ok=True)  # a reader must never meet the old record beside new indexes
    open_store(str(out)).sweep()  # what a killed run left
    for split in SPLITS:
        write_index(out / f"{split}.arrow", rows[split])
    _write(out / "cmvn.json", json.dumps(Cmvn.of(train_sums).to_dict(train_sums.frames)))
    lines = ({"clip_id": one.clip_id, "reason": one.reason, "detail": one.detail} for one in bad)
    _write(out / "bad_samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    record = _handoff(rows, settings, list(map(_place, uris)), s3)
    if build_tokenizer:
        build_tokenizer(rows["train"], out / "tokenizer")
    _write(out / "handoff.json", record.to_json())  # last: its presence means complete
    return record


def _place(uri: str) -> str:
    return uri if "://" in uri or uri.startswith("bytes:/") else path_to_uri(os.path.abspath(uri))


def _names(uris: Sequence[str]) -> dict[str, str]:
    """Return what ids call each place: as many last parts of its path as tell the tars apart, none for a single one."""
    parts = {place: PurePosixPath(place).parts for place in map(_place, uris)}
    names: dict[str, str] = {}
    for count in range(max(map(len, parts.values())) + 1):
        names = {place: "/".join(path[max(0, len(path) - count) :]) for place, path in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _scan(uri: str, name: str, s3: S3Settings) -> Iterator[tuple[Row, np.ndarray] | BadSample]:
    """Yield the samples of one tar, in its order, their ids headed by `name`.

    webdataset says which members are a sample; where they lie, which its reader does not know, and whether the tar is
    whole, which it does not ask, is read from the headers. Contents are read when their sample is made, never a pickle.
    """
    from webdataset.tariterators import base_plus_ext, group_by_keys

    spoilt: list[BadSample] = []
    handed = ""

    def members(file: RangedFile) -> Iterator[dict[str, Any]]:
        nonlocal handed
        for member in members_of(file):
            handed = member.name
            if base_plus_ext(handed)[0] is None:
                spoilt.append(BadSample(_clip_id(name, handed), "unreadable", "its name is no key with an extension"))
            yield {"fname": handed, "data": member, "__url__": uri}

    def refuse(error: Exception) -> bool:
        if not isinstance(error, ValueError):
            raise error
        again = BadSample(_clip_id(name, base_plus_ext(handed)[0]), "duplicate", "its members stand there twice")
        if not spoilt or spoilt[-1].clip_id != again.clip_id:
            spoilt.append(again)
        return True

    try:
        store, place = locate(uri, s3)
        version = store.version(place)
        file = RangedFile(store, place, 0, store.size(place), _BUFFER_BYTES)
        for sample in group_by_keys(members(file), suffixes=_SUFFIXES, handler=refuse):
            yield _sample(uri, name, sample["__key__"], {key: sample[key] for key in _SUFFIXES & sample.keys()}, file)
            yield from spoilt
            spoilt.clear()
        yield from spoilt
        if store.version(place) != version:
            raise UserError(f"{uri} was replaced while it was read: start again")
    except FileNotFoundError:
        raise UserError(f"there is no tar {uri}: fix the path") from None
    except UserError:
        raise
    except (TarError, OSError) as error:
        fix = "unpack it if it is compressed, else make it again"
        raise UserError(f"{uri} is no plain tar that can be read ({error}): {fix}") from None


def _clip_id(name: str, key: str) -> str:
    return (f"{name}#{key}" if name else key).encode("utf-8", "backslashreplace").decode("utf-8")


def _sample(
    uri: str, name: str, key: str, members: dict[str, Member], file: RangedFile
) -> tuple[Row, np.ndarray] | BadSample:
    def content(suffix: str) -> bytes:
        file.seek(members[suffix].offset)
        return file.read(members[suffix].size)

    clip_id = _clip_id(name, key)
    audio = next((suffix for suffix in AUDIO if suffix in members), None)
    if audio is None:
        return BadSample(clip_id, "unreadable", f"none of its members is audio: {', '.join(AUDIO)}")
    for suffix, member in members.items():
        if member.problem:
            return BadSample(clip_id, "unreadable", f"its .{suffix} is {member.problem}")
    try:
        about = json.loads(content("json")) if "json" in members else {}
        if not isinstance(about, dict):
            raise TypeError
        label = (content("txt").decode("utf-8-sig") if "txt" in members else about.get("text") or "").strip()
        json.dumps([key, about], ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, TypeError, AttributeError, RecursionError):
        return BadSample(clip_id, "unreadable", "its name, .txt or .json is no UTF-8 text or JSON object")
    events = about.get("events", [] if about.get("no_events") else None)
    if events is not None and not (isinstance(events, list) and all(isinstance(event, str) for event in events)):
        return BadSample(clip_id, "unreadable", f"its events are no list of names: {events!r:.80}")
    if not label and not events:
        return BadSample(clip_id, "empty_label", "no text and no events")
    try:
        features = filterbank(decode(clip_id, BytesIO(content(audio))))
    except BadSample as bad:
        return bad
    speaker = str(about["speaker"]) if about.get("speaker") else None
    # Keys start again in other tars, which must not tie one speaker to another.
    own_recording = f"{speaker}/{key}" if speaker else key
    known: dict[str, Any] = {kind: str(about[kind]) for kind in (*_ATTRIBUTES, "answer") if about.get(kind)}
    known |= {name: float(about[name]) for name in _MEASURES if _is_number(about.get(name))}
    words = about.get("words")
    if words is not None and (timed := _words(words)) is None:
        return BadSample(clip_id, "unreadable", f"its words are no list of text, start and end: {words!r:.80}")
    row = Row(
        clip_id=clip_id,
        shard=_place(uri),
        offset=members[audio].offset,
        size=members[audio].size,
        frames=len(features),
        label_tokens=len(tokens(label)),
        label=label,
        domain=str(about.get("domain") or PurePosixPath(_place(uri)).parent.name or "plain"),
        events=None if events is None else tuple(events),
        recording_id=str(about.get("recording_id") or own_recording),
        speaker=speaker,
        words=None if words is None else timed,
        **known,
    )
    return row, features


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _words(given: Any) -> tuple[Word, ...] | None:
    """Return the words of a sample's `.json`, as our shards have them; None where they are none."""
    try:
        words = tuple(Word(text=each["text"], start=each["start"], end=each["end"]) for each in given)
    except (TypeError, KeyError):
        return None
    good = all(
        isinstance(each.text, str) and type(each.start) is type(each.end) is int and 0 <= each.start <= each.end < 2**31
        for each in words
    )
    return words if good else None


def _handoff(rows: dict[str, list[Row]], settings: IndexSettings, uris: list[str], s3: S3Settings) -> HandoffRecord:
    def hours(some: Sequence[Row]) -> float:
        return round(sum(row.frames for row in some) / 360_000, 6)

    train = rows["train"]
    labels = {
        name: dict(sorted(Counter(value for row in train if (value := getattr(row, name))).items()))
        for name in _ATTRIBUTES
    }
    events = dict(sorted(Counter(event for row in train for event in row.events or ()).items()))
    return HandoffRecord(
        seed=settings.seed,
        splits={
            split: Split(index=f"{split}.arrow", clips=len(rows[split]), hours=hours(rows[split])) for split in SPLITS
        },
        domains={
            domain: Domain(clips=len(own), hours=hours(own))
            for domain in sorted({row.domain for row in train})
            if (own := [row for row in train if row.domain == domain])
        },
        attributes=labels | {"events": events},
        tars=tuple(uris),
        storage=S3Place(endpoint_url=s3.endpoint_url, region=s3.region, addressing_style=s3.addressing_style),
    )


def _write(path: Path, text: str) -> None:
    replace(path, text.encode("utf-8"))
