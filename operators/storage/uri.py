"""What names a source: a local path, `s3://bucket/key`, or `x.tar#member` of either. Pure text, nothing is opened.

Paths and keys are plain: never percent-decoded, and "#", "?" and "%" are ordinary characters in them.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from operators.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TAR_MEMBER = re.compile(r"\.tar#", re.IGNORECASE)


def scheme(uri: str) -> str | None:
    """Return the `http` of `http://...`; None for a plain path."""
    found = _SCHEME.match(uri)
    return found.group(1).lower() if found else None


def is_s3(uri: str) -> bool:
    return scheme(uri) == "s3"


def split_s3(uri: str) -> tuple[str, str]:
    """Return (bucket, key) of an s3:// URI. Keys are taken as they stand: "#", "?" and "%" are ordinary characters."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        raise UserError(f"{uri} names no bucket: write s3://bucket/prefix")
    return bucket, key


def split_member(uri: str) -> tuple[str, str | None]:
    """Return (tar, member) of `x.tar#member`; (uri, None) for anything else."""
    found = _TAR_MEMBER.search(uri)
    return (uri[: found.end() - 1], uri[found.end() :]) if found else (uri, None)


def resolve(folder: str, path: str) -> str:
    """Return `path` as it stands in a file of `folder`: relative to it, unless it is absolute or has a scheme."""
    if "://" in path or path.startswith(("/", "bytes:/")):
        return path
    return f"{folder.rstrip('/')}/{path}"


def path_to_uri(path: str) -> str:
    """Return a local path as text that any file can hold.

    It is the path itself, except for the rare name that is not UTF-8, which no ledger could store: `bytes:/caf%E9.mp3`.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return "bytes:" + quote(os.fsencode(path))
    return path


def uri_to_path(uri: str) -> str:
    """Return the local path of an URI made by `path_to_uri`; every other URI is a path already."""
    return os.fsdecode(unquote_to_bytes(uri[len("bytes:") :])) if uri.startswith("bytes:/") else uri
