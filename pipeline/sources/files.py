"""Sources: a folder, an s3:// prefix, a manifest or a tar of raw audio, as one stream of `SourceFile`.

    folder, prefix ──walk──────┐
    manifest ──rows──resolve───┼──> SourceFile ──has it come before?──> every SourceFile: good, or with its problem
    tar ──headers──────────────┘

How long they are is asked in pipeline/sources/probe.py.

Local paths and keys are plain text, never percent-decoded, so every file name that a disk can hold works. Nothing is
opened here but folders, manifests and tar headers. A symbolic link is followed wherever it ends, except to what the
walk meets anyway under its real name (a linked file is then a duplicate, a linked folder is skipped, so no loop is ever
entered).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from operators.clip import Recording, Rejection
from operators.errors import UserError
from operators.labelled.manifest import is_manifest, read_rows, text
from operators.storage.base import AccessRefused, S3Settings
from operators.storage.fetch import Fetch, open_store
from operators.storage.tar_members import Member, TarError, read_members
from operators.storage.uri import is_s3, path_to_uri, scheme, split_member, split_s3
from pipeline.config import SourceSettings
from pipeline.sources.seen import Seen
from pipeline.sources.walk import NOT_LOOKED_INTO, OF_A_RUN, RUN_PLAN, RUN_SHARDS, Found, passed_by, walk

_AUDIO = (
    "aac ac3 aif aifc aiff amr ape au caf dsf dts eac3 flac gsm m4a m4b mka mp2 mp3 mpga oga ogg opus ra spx "
    "tta wav wma wv"
)
_VIDEO = "3g2 3gp asf avi f4v flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv rm ts vob webm wmv"
MEDIA_EXTENSIONS = frozenset(f"{_AUDIO} {_VIDEO}".split())
"""File name endings, without the dot, that a walk of a folder takes for audio. Manifests may name any file."""

REASONS = (
    "bad_manifest_line",  # the line cannot be read, or has no usable uri
    "duplicate",  # its uri or its recording_id came before
    "not_a_file",  # a folder, FIFO, socket, device, or a link inside a tar
    "permission",  # a folder that may not be listed
    "missing",  # a tar, or a member of one, that is not there
    "bad_uri",  # no file can have this name
    "unsupported_scheme",  # neither a path nor s3://
    "unreadable_tar",  # compressed or broken
    "earlier_run",  # the shards of a run of ours
)
"""Why the plan already knows that a recording cannot be used: `Rejection.reason` with stage "plan"."""

UNSORTED = "unsorted"
"""Domain of a file that lies in no folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A SourceFile is one recording as its source names it. All text is valid Unicode, whatever the source held."""

    uri: str
    recording_id: str
    domain: str
    language: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """the manifest's other columns, in values that JSON can hold"""
    bytes: int | None = None
    """size, where the source tells it for nothing"""
    member: tuple[int, int] | None = None
    """(offset, size) in the tar that `uri` names before "#" """
    problem: Rejection | None = None
    named: bool = False
    """the recording_id is the manifest's own, not a default"""

    def recording(self) -> Recording:
        return Recording(
            recording_id=self.recording_id,
            uri=self.uri,
            domain=self.domain,
            language=self.language,
            provenance=self.provenance,
        )


def read_sources(
    sources: Iterable[SourceSettings], s3: S3Settings | None = None, extensions: frozenset[str] = MEDIA_EXTENSIONS
) -> Iterator[SourceFile]:
    """Yield every recording of every source, in the order of the sources; the second of two with one uri or one id is a
    "duplicate".

    A default recording_id (the uri as written, or the path below the source) that another source has used already gives
    way to the full uri: two crawls may well have the same file names.

    Raises UserError for a source that cannot be used at all, or that holds no recording.
    """
    uris, ids = Seen(), Seen()
    for source in sources:
        empty = True
        for file in _read(source, s3 or S3Settings(), extensions):
            empty = False
            if not uris.add(file.uri):
                yield _with_problem(file, "duplicate", "the uri came before")
                continue
            if not file.named and file.recording_id in ids:
                file = replace(file, recording_id=text(file.uri))
            if not ids.add(file.recording_id):
                file = _with_problem(file, "duplicate", "the recording_id came before")
            yield file
        if empty:
            raise UserError(
                f"no audio in the source {source.path}: expected files ending in .wav, .mp3, .opus and the like"
            )


def check_source(
    source: SourceSettings, s3: S3Settings | None = None, extensions: frozenset[str] = MEDIA_EXTENSIONS
) -> str:
    """Return a line that says what a source is, from a look at its beginning. Raises UserError as `read_sources`."""
    first = next(read_sources([source], s3, extensions))
    return f"{source.path} ({_kind(source.path)}), first recording {first.uri!r}"


def _kind(path: str) -> str:
    local = not is_s3(path)
    if local and os.path.isdir(path):
        return "folder"
    if is_manifest(path):
        return "manifest"
    if path.lower().endswith(".tar"):
        return "tar"
    if path.lower().endswith((*NOT_LOOKED_INTO, ".json", ".jsonl.gz", ".csv.gz")):
        raise UserError(
            f"the source {path} has a form that cannot be read: give a folder, .jsonl, .csv, .tsv, .parquet or a plain "
            ".tar"
        )
    if local:
        if not os.path.exists(path):
            raise UserError(f"the source {path} does not exist: correct its path")
        raise UserError(
            f"the source {path} is no folder, manifest (.jsonl, .csv, .tsv, .parquet) or .tar: correct its path; "
            "for one recording give its folder, or a manifest that names it"
        )
    return "prefix"


def _read(source: SourceSettings, s3: S3Settings, extensions: frozenset[str]) -> Iterator[SourceFile]:
    if not source.path or "\0" in source.path:
        raise UserError("a source has no path: write sources: [{path: crawl/}]")
    if (other := scheme(source.path)) not in (None, "s3"):
        raise UserError(f"the source {source.path}: {other}:// cannot be read; give a local path or s3://bucket/prefix")
    kind = _kind(source.path)
    path = source.path if is_s3(source.path) else os.path.abspath(source.path)
    if kind == "manifest":
        yield from _Manifest(source, path, s3).files()
    elif kind == "tar":
        uri = path if is_s3(path) else path_to_uri(path)
        tar = _tar_files(uri, os.path.basename(path), source.domain, source, s3, extensions)
        first = next(tar, None)
        if first is not None and first.problem and first.uri == uri:
            raise UserError(f"the source {source.path} cannot be read: {first.problem.detail}")
        yield from [first] if first else []
        yield from tar
    else:
        yield from _tree(source, path, s3, extensions)


def _tree(source: SourceSettings, root: str, s3: S3Settings, extensions: frozenset[str]) -> Iterator[SourceFile]:
    for found in _listing(root, s3) if is_s3(root) else walk(root):
        parts = found.path.split("/")
        first = _first_folder(text(found.path))
        domain = source.domain or (first if first != UNSORTED else None)
        uri = f"{root.rstrip('/')}/{found.path}"
        uri = uri if is_s3(root) else path_to_uri(uri)
        file = SourceFile(
            uri=uri,
            recording_id=text(found.path),
            domain=domain or UNSORTED,
            language=source.language,
            bytes=found.bytes,
        )
        name = parts[-1].lower()
        if found.problem in ("permission", "earlier_run"):
            yield _with_problem(file, found.problem, found.detail)
        elif name.endswith(NOT_LOOKED_INTO):
            yield _with_problem(
                file, "unreadable_tar", "compressed: only an uncompressed tar can be read in parts, so unpack it"
            )
        elif not name.endswith(".tar") and name.rpartition(".")[2] not in extensions:
            continue
        elif found.problem:
            yield _with_problem(file, found.problem, found.detail)
        elif name.endswith(".tar"):
            yield from _tar_files(uri, found.path, domain, source, s3, extensions)
        else:
            yield file


def _listing(root: str, s3: S3Settings) -> Iterator[Found]:
    runs: list[str] = []  # keys come sorted, so a run's plan before its shards
    told: set[str] = set()
    for key, size in open_store(root, s3).list():
        if key == RUN_PLAN or key.endswith("/" + RUN_PLAN):
            runs.append(key.removesuffix(RUN_PLAN) + RUN_SHARDS)
        shards = next((run for run in runs if key.startswith(run + "/")), None)
        if shards is None:
            if not passed_by(key):
                yield Found(key, bytes=size)
        elif shards not in told:
            told.add(shards)
            yield Found(shards, problem="earlier_run", detail=OF_A_RUN)


def _tar_files(
    uri: str, name: str, domain: str | None, source: SourceSettings, s3: S3Settings, extensions: frozenset[str]
) -> Iterator[SourceFile]:
    """The audio in a tar that its source calls `name`. A tar that cannot be read (further) is one file with a
    problem.
    """
    try:
        for member in read_members(uri, s3):
            if passed_by(member.name) or member.name.rpartition(".")[2].lower() not in extensions:
                continue
            file = SourceFile(
                uri=f"{uri}#{text(member.name)}",
                recording_id=text(f"{name}#{member.name}"),
                domain=domain or _first_folder(text(member.name)),
                language=source.language,
                bytes=member.size,
                member=(member.offset, member.size),
            )
            yield _with_problem(file, "not_a_file", member.problem) if member.problem else file
    except (TarError, OSError) as error:
        yield _with_problem(
            SourceFile(uri=uri, recording_id=text(name), domain=domain or UNSORTED), *_tar_problem(error)
        )


def _tar_problem(error: TarError | OSError) -> tuple[str, str]:
    if isinstance(error, TarError):
        return "unreadable_tar", str(error)
    if isinstance(error, AccessRefused):
        return "permission", str(error)
    if isinstance(error, UserError):
        raise error
    return "missing", f"the tar cannot be opened: {error.strerror or 'no such object'}"


class _Manifest:
    """The recordings that a manifest names."""

    def __init__(self, source: SourceSettings, path: str, s3: S3Settings) -> None:
        self.source, self.path, self.s3 = source, path, s3
        self.folder = path.rpartition("/")[0]
        self.tars: dict[str, dict[str, Member] | tuple[str, str]] = {}

    def files(self) -> Iterator[SourceFile]:
        try:
            with Fetch(self.s3).fetch(self.path) as path:
                for number, row in read_rows(path, self.path):
                    yield self._file(number, row)
        except FileNotFoundError:
            raise UserError(f"the source {self.path} does not exist: correct its path") from None

    def _file(self, number: int, row: dict[str, Any] | str) -> SourceFile:
        line_id = text(f"{os.path.basename(self.path)}:{number}")
        bad = SourceFile(uri=text(f"{self.path}:{number}"), recording_id=line_id, domain=self.source.domain or UNSORTED)
        if isinstance(row, str):
            return _with_problem(bad, "bad_manifest_line", f"line {number}: {row}")
        written = row.get("uri")
        if not isinstance(written, str) or not written:
            return _with_problem(bad, "bad_manifest_line", f"line {number}: no uri")
        for column in ("recording_id", "domain", "language"):
            if isinstance(value := row.get(column), float) and value.is_integer():
                row[column] = int(value)  # pandas makes integers float as soon as one of them is missing
            if not isinstance(row.get(column), str | int | None):
                return _with_problem(bad, "bad_manifest_line", f"line {number}: {column} is not text")
        uri, problem = self._resolve(written)
        own_id, domain, language = (
            "" if row.get(column) is None else str(row[column]) for column in ("recording_id", "domain", "language")
        )
        file = SourceFile(
            uri=uri,
            recording_id=own_id or text(written),
            domain=domain or self.source.domain or self._folder_of(written, uri),
            language=language or self.source.language,
            provenance={key: value for key, value in row.items() if key not in _OWN_COLUMNS},
            problem=problem,
            named=bool(own_id),
        )
        return file if problem else self._member(file, written)

    def _resolve(self, written: str) -> tuple[str, Rejection | None]:
        """The full uri, in valid Unicode, and why it can name nothing."""
        other = scheme(written)
        if other not in (None, "s3"):
            return text(written), _rejection("unsupported_scheme", f"{other}:// cannot be read")
        try:
            if "\0" in written:
                raise ValueError("a NUL in a path")
            if other == "s3":
                written.encode()
                split_s3(written)
                return written, None
            if written.startswith("bytes:/"):
                return written, None
            if is_s3(self.folder) and not written.startswith("/"):
                written.encode()
                return f"s3://{_join_key(self.folder, written)}", None
            # Not normpath: below a symbolic link "a/../b" is another file than "b".
            return path_to_uri(str(PurePosixPath(self.folder) / written)), None
        except (ValueError, UserError) as error:  # UnicodeEncodeError is a ValueError
            return text(written), _rejection("bad_uri", f"no file can have this name ({type(error).__name__})")

    def _folder_of(self, written: str, uri: str) -> str:
        if uri.startswith(self.folder + "/"):
            below = uri[len(self.folder) + 1 :]
        elif is_s3(written):
            below = written.partition("://")[2].partition("/")[2]
        else:
            return UNSORTED
        place, member = split_member(below)
        domain = _first_folder(text(place))
        return _first_folder(text(member)) if domain == UNSORTED and member is not None else domain

    def _member(self, file: SourceFile, written: str) -> SourceFile:
        """The file with its place in a tar, where its uri names a member of one."""
        tar, name = split_member(file.uri)
        if name is None or (not is_s3(file.uri) and os.path.lexists(file.uri)):
            return file
        if tar not in self.tars:
            self.tars[tar] = self._index(tar)
        index = self.tars[tar]
        if isinstance(index, tuple):
            return _with_problem(file, *index)
        member = index.get(name) or index.get(_without_dots(name))
        if member is None:
            return _with_problem(file, "missing", "the tar has no such member")
        if member.problem:
            return _with_problem(file, "not_a_file", member.problem)
        return replace(file, member=(member.offset, member.size), bytes=member.size)

    def _index(self, tar: str) -> dict[str, Member] | tuple[str, str]:
        index: dict[str, Member] = {}
        try:
            for member in read_members(tar, self.s3):
                index.setdefault(text(member.name), member)
                index.setdefault(_without_dots(text(member.name)), member)
        except (TarError, OSError) as error:
            if not index:
                return _tar_problem(error)
        return index


_OWN_COLUMNS = frozenset(("uri", "recording_id", "domain", "language"))


def _first_folder(path: str) -> str:
    folders = [part for part in path.split("/")[:-1] if part not in ("", ".", "..")]
    return folders[0] if folders else UNSORTED


def _without_dots(path: str) -> str:
    """The path without the parts that mean "here"."""
    return "/".join(part for part in path.split("/") if part != ".")


def _join_key(folder: str, written: str) -> str:
    """bucket/key of a path relative to an s3:// folder. Raises ValueError when it leaves the bucket."""
    bucket, base = split_s3(folder + "/")
    parts = base.rstrip("/").split("/") if base.rstrip("/") else []
    for part in written.split("/"):
        if part == "..":
            if not parts:
                raise ValueError("leaves the bucket")
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join([bucket, *parts])


def _rejection(reason: str, detail: str) -> Rejection:
    assert reason in REASONS, reason
    return Rejection(stage="plan", reason=reason, detail=text(detail))


def _with_problem(file: SourceFile, reason: str, detail: str) -> SourceFile:
    return replace(file, problem=_rejection(reason, detail))
