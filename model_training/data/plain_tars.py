"""Plain WebDataset tars made elsewhere become a folder that can be trained on, with no run of ours behind it.

    x.tar: key.flac|wav|ogg|opus|mp3 + key.txt [+ key.json] ──scan──> Row, features
    Rows ──hash of the recording──> train | dev | test.arrow        features of train ──MelSums──> cmvn.json
    handoff.json ties them together; what cannot be used is named in bad_samples.jsonl

The tars stay where they are; the index points into them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from model_training.data.audio import BadSample, decode
from model_training.data.features import Cmvn
from model_training.data.index import Row, write_index
from model_training.storage import Storage
from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.text.spoken import tokens

AUDIO = ("flac", "wav", "ogg", "opus", "mp3")
SPLITS = ("train", "dev", "test")
_ATTRIBUTES = ("language", "age", "gender", "emotion")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """How plain tars are shared out."""

    dev_share: float = 0.02
    test_share: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.dev_share, self.test_share) < 0 or self.dev_share + self.test_share >= 1:
            raise UserError(
                f"dev {self.dev_share} and test {self.test_share} leave nothing to train on: want small shares"
            )

    def split(self, recording_id: str) -> str:
        """The split of a recording. It depends on the name and the seed alone, so more tars move no recording."""
        digest = hashlib.sha256(f"{self.seed} {recording_id}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return "dev" if place < self.dev_share else "test" if place < self.dev_share + self.test_share else "train"


def index_from_tars(
    uris: Sequence[str],
    out: Path,
    settings: IndexSettings | None = None,
    *,
    storage: Storage | None = None,
    build_tokenizer: Callable[[Iterable[str], Path], object] | None = None,
) -> dict[str, Any]:
    """Write the hand-off folder `out` for these tars (local or s3://) and return what handoff.json says.

    `build_tokenizer(labels of train, folder)` is called at the end. A sample's `.json` may name language, age, gender,
    emotion, events, recording_id, speaker, domain and text; the domain is else the name of the tar's folder. A clip's
    id is its key, and with several tars `x.tar#key`: keys often begin anew in each.

    Raises:
        UserError: a tar is missing, compressed or damaged; no sample could be used.
    """
    settings, storage = settings or IndexSettings(), storage or Storage()
    if not uris:
        raise UserError("no tar to index: name at least one")
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    sums, seen, bad = MelSums(), set[str](), list[BadSample]()
    names = _names(uris)
    for uri in uris:
        for made in _scan(uri, names[_place(uri)], storage):
            if isinstance(made, BadSample):
                bad.append(made)
                continue
            row, features = made
            if row.clip_id in seen:
                bad.append(BadSample(row.clip_id, "duplicate", f"it stands earlier than in {uri}"))
                continue
            seen.add(row.clip_id)
            split = settings.split(row.recording_id)
            rows[split].append(row)
            if split == "train":
                sums = sums.add(features)
    if not rows["train"]:
        raise UserError(
            f"none of the {len(bad) + len(seen)} samples can be trained on: see the samples' form in the docs"
        )
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        write_index(out / f"{split}.arrow", rows[split])
    _write(out / "cmvn.json", json.dumps(Cmvn.of(sums).to_dict(sums.frames)))
    lines = ({"clip_id": one.clip_id, "reason": one.reason, "detail": one.detail} for one in bad)
    _write(out / "bad_samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    record = _handoff(rows, settings, list(uris), storage)
    if build_tokenizer:
        build_tokenizer((row.label for row in rows["train"]), out / "tokenizer")
    _write(out / "handoff.json", json.dumps(record, ensure_ascii=False, indent=1))  # last: its presence means complete
    return record


def _place(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)


def _names(uris: Sequence[str]) -> dict[str, str]:
    """What ids call each place: as many of the last parts of its path as tell the tars apart, none for a single one."""
    parts = {place: PurePosixPath(place).parts for place in map(_place, uris)}
    names: dict[str, str] = {}
    for count in range(max(map(len, parts.values())) + 1):
        names = {place: "/".join(path[max(0, len(path) - count) :]) for place, path in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def _scan(uri: str, name: str, storage: Storage) -> Iterator[tuple[Row, Any] | BadSample]:
    """The samples of one tar, in its order, their ids headed by `name`."""
    path = None
    try:
        path = storage.fetch(uri)
        with tarfile.open(path, "r:") as tar:
            members: dict[str, tarfile.TarInfo] = {}
            current = ""
            for member in _files(tar):
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if members and key != current:
                    yield _sample(uri, name, current, members, tar)
                    members = {}
                current = key
                members[suffix.lower()] = member
            if members:
                yield _sample(uri, name, current, members, tar)
    except FileNotFoundError:
        raise UserError(f"there is no tar {uri}: mend the path") from None
    except (tarfile.TarError, OSError) as error:
        mend = "unpack it if it is compressed, else make it again"
        raise UserError(f"{uri} is no plain tar that can be read ({error}): {mend}") from None
    finally:
        if path and uri.startswith("s3://"):
            path.unlink(missing_ok=True)  # one tar of scratch at a time


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar. Raises tarfile.ReadError where it is damaged or cut off, at the start or later."""
    at = -1
    try:
        while (member := tar.next()) is not None or _goes_on(tar):
            if member is None:
                continue
            if member.size < 0 or tar.offset <= at:
                raise tarfile.ReadError(f"a broken header at byte {at}")
            at = tar.offset
            if member.isfile():
                yield member
        # tarfile takes any later header that it cannot read for the end of the archive, and a cut for one too.
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"a broken header at byte {tar.offset}, or cut off there")
    except (ValueError, OverflowError, RecursionError) as error:
        raise tarfile.ReadError(f"a broken header after byte {max(at, 0)}: {error}") from None


def _goes_on(tar: tarfile.TarFile) -> bool:
    """Whether another tar stands behind the end of one, as `cat a.tar b.tar` writes it; the reading goes on there."""
    assert tar.fileobj is not None
    at = tar.offset
    tar.fileobj.seek(at)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        return False
    while block := tar.fileobj.read(tarfile.BLOCKSIZE):
        at += tarfile.BLOCKSIZE
        if block.strip(b"\0"):
            tar.offset = at if block[257:262] == b"ustar" else tar.offset
            return block[257:262] == b"ustar"
    return False


def _sample(
    uri: str, name: str, key: str, members: dict[str, tarfile.TarInfo], tar: tarfile.TarFile
) -> tuple[Row, Any] | BadSample:
    def content(suffix: str) -> bytes:
        file = tar.extractfile(members[suffix])
        return file.read() if file else b""

    clip_id = (f"{name}#{key}" if name else key).encode("utf-8", "backslashreplace").decode("utf-8")
    audio = next((suffix for suffix in AUDIO if suffix in members), None)
    if audio is None:
        return BadSample(clip_id, "unreadable", f"no audio among {', '.join(sorted(members))}")
    try:
        about = json.loads(content("json")) if "json" in members else {}
        if not isinstance(about, dict):
            raise TypeError
        label = (content("txt").decode("utf-8-sig") if "txt" in members else about.get("text") or "").strip()
        json.dumps([key, about], ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, TypeError, AttributeError, RecursionError):
        return BadSample(clip_id, "unreadable", "its name, .txt or .json is no UTF-8 text or JSON object")
    events = about.get("events")
    if events is not None and not (isinstance(events, list) and all(isinstance(event, str) for event in events)):
        return BadSample(clip_id, "unreadable", f"its events are no list of names: {events!r:.80}")
    if not label and not events:
        return BadSample(clip_id, "empty_label", "no text and no events")
    try:
        features = filterbank(decode(clip_id, BytesIO(content(audio))))
    except BadSample as bad:
        return bad
    known: dict[str, Any] = {kind: str(about[kind]) for kind in _ATTRIBUTES if about.get(kind)}
    row = Row(
        clip_id=clip_id,
        shard=_place(uri),
        offset=members[audio].offset_data,
        size=members[audio].size,
        frames=len(features),
        label_tokens=len(tokens(label)),
        label=label,
        domain=str(about.get("domain") or PurePosixPath(uri).parent.name or "plain"),
        events=None if events is None else tuple(events),
        recording_id=str(about.get("recording_id") or key),
        speaker=str(about["speaker"]) if about.get("speaker") else None,
        **known,
    )
    return row, features


def _handoff(rows: dict[str, list[Row]], settings: IndexSettings, uris: list[str], storage: Storage) -> dict[str, Any]:
    def size(some: Sequence[Row]) -> dict[str, Any]:
        return {"clips": len(some), "hours": round(sum(row.frames for row in some) / 360_000, 6)}

    train = rows["train"]
    labels = {
        name: dict(sorted(Counter(value for row in train if (value := getattr(row, name))).items()))
        for name in _ATTRIBUTES
    }
    events = dict(sorted(Counter(event for row in train for event in row.events or ()).items()))
    return {
        "schema_version": 1,
        "seed": settings.seed,
        "splits": {split: {"index": f"{split}.arrow"} | size(rows[split]) for split in SPLITS},
        "domains": {
            domain: {"weight": 1.0} | size([row for row in train if row.domain == domain])
            for domain in sorted({row.domain for row in train})
        },
        "cmvn": "cmvn.json",
        "tokenizer": "tokenizer",
        "attributes": labels | {"events": events},
        "tars": uris,
        "storage": asdict(storage),
    }


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
