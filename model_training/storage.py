"""Bytes of local files and of s3:// objects, by range.

    uri ──read(offset, size)──> bytes      local: pread      s3: ranged GET, taken up again where a connection broke
    uri ──size──> bytes there              uri ──fetch──> a local file, downloaded once

Credentials come from boto3's own chain only. A thing that is not there raises FileNotFoundError with its URI; whatever
else keeps a store from answering is a UserError, since no clip is to blame for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from operators.errors import UserError

_ATTEMPTS = 8
_BLOCK = 256 << 10
_clients: dict[tuple[Any, ...], Any] = {}
_making = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.Lock()))


def resolve(folder: str, path: str) -> str:
    """`path` as it stands in a file of `folder`: relative to it, unless it is absolute or has a scheme."""
    if "://" in path or path.startswith(("/", "bytes:/")):
        return path
    return f"{folder.rstrip('/')}/{path}"


class StoreRefused(UserError):
    """The store answered with a refusal of its own, perhaps because it wants to be addressed in another style."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Reads local paths and s3:// URIs. Cheap to build and to pickle; connections belong to the process."""

    endpoint_url: str | None = None
    """of an S3-compatible store; None: AWS_ENDPOINT_URL, else Amazon's."""
    region: str | None = None
    """that requests are signed for; None: boto3's own (AWS_DEFAULT_REGION, the profile), else us-east-1."""
    addressing_style: str | None = None
    """path, virtual (the bucket in the host's name) or auto; None: boto3's own (the profile), else auto."""

    def size(self, uri: str) -> int:
        """Bytes of the whole object. Raises FileNotFoundError, UserError."""
        if not uri.startswith("s3://"):
            with _local_errors(uri):
                return os.stat(_path(uri)).st_size
        return int(self._head(uri)["ContentLength"])

    def read(self, uri: str, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes [offset, offset + size); None: to the end. Fewer where the object ends before. Raises as `size`."""
        if uri.startswith("s3://"):
            return self._read_s3(uri, offset, size)
        with _local_errors(uri):
            handle = os.open(_path(uri), os.O_RDONLY | os.O_CLOEXEC)
            try:
                wanted = os.fstat(handle).st_size - offset if size is None else size
                parts, done = [], 0
                while done < wanted and (part := os.pread(handle, wanted - done, offset + done)):
                    parts.append(part)
                    done += len(part)
                return b"".join(parts)
            finally:
                os.close(handle)

    def open(self, uri: str, offset: int, size: int) -> io.BufferedReader:
        """A seekable file of the bytes [offset, offset + size), read a quarter of a megabyte at a time when needed."""
        return io.BufferedReader(_Range(self, uri, offset, size), _BLOCK)

    def fetch(self, uri: str) -> Path:
        """A local file of the same bytes: the file itself, or an object's copy, downloaded once per version of it."""
        if not uri.startswith("s3://"):
            with _local_errors(uri):
                os.stat(_path(uri))
            return Path(_path(uri))
        version = hashlib.sha256(f"{self.endpoint_url} {uri} {self._head(uri)['ETag']}".encode()).hexdigest()[:32]
        folder = Path(tempfile.gettempdir()) / f"touchasp-fetched-{os.getuid()}"
        copy = folder / f"{version}{Path(uri).suffix}"
        if not copy.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            total, done = self.size(uri), 0
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
                try:
                    while done < total:
                        part = self.read(uri, done, 64 << 20)
                        if not part:
                            raise UserError(f"{uri} shrank while it was read: start again")
                        partial.write(part)
                        done += len(part)
                    partial.flush()
                    os.replace(partial.name, copy)
                except BaseException:
                    Path(partial.name).unlink(missing_ok=True)
                    raise
        return copy

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Clients are safe between threads, not between processes; making one is not safe between threads.
        key = (os.getpid(), self.endpoint_url, self.region, self.addressing_style)
        with _making:
            if key not in _clients:
                config = Config(
                    retries={"mode": "adaptive", "total_max_attempts": _ATTEMPTS},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=32,
                    response_checksum_validation="when_required",
                    s3={"addressing_style": self.addressing_style} if self.addressing_style else None,
                )
                session = boto3.Session(region_name=self.region)
                region = session.region_name or "us-east-1"
                endpoint = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL")
                _clients[key] = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
            return _clients[key]

    def _head(self, uri: str) -> Any:
        with _s3_errors(uri):
            return self._client().head_object(**_target(uri))

    def _read_s3(self, uri: str, offset: int, size: int | None) -> bytes:
        from botocore import exceptions as aws
        from urllib3.exceptions import HTTPError

        sink, failures = io.BytesIO(), 0
        while size is None or sink.tell() < size:
            before = sink.tell()
            last = "" if size is None else offset + size - 1
            try:
                with _s3_errors(uri):
                    answer = self._client().get_object(**_target(uri), Range=f"bytes={offset + before}-{last}")
            except _PastTheEnd:
                break
            try:
                with answer["Body"] as body:
                    for chunk in iter(lambda: body.read(64 << 10), b""):
                        sink.write(chunk)
                if sink.tell() - before >= answer["ContentLength"]:
                    break
                raise ConnectionError("the body ended early")
            except (aws.HTTPClientError, aws.IncompleteReadError, HTTPError, OSError) as error:
                failures = 1 if sink.tell() > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise UserError(
                        f"{uri} broke off {failures} times in a row ({type(error).__name__}): check the network"
                    ) from None
                time.sleep(min(10.0, 0.05 * 2**failures))
        return sink.getvalue()


class _Range(io.RawIOBase):
    """A stretch of an object as a file."""

    def __init__(self, storage: Storage, uri: str, offset: int, size: int) -> None:
        self._storage, self._uri, self._offset, self._size, self._at = storage, uri, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("seek before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        data = self._storage.read(self._uri, self._offset + self._at, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _PastTheEnd(Exception):
    """The range begins where the object has ended."""


def _path(uri: str) -> str:
    # A file name that is not UTF-8 travels percent-encoded, since no index could hold it.
    return os.fsdecode(unquote_to_bytes(uri[len("bytes:") :])) if uri.startswith("bytes:/") else uri


def _target(uri: str) -> dict[str, str]:
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket or not key:
        raise UserError(f"{uri} names no object: write s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


@contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    if "://" in uri:
        raise UserError(f"{uri}: only local paths and s3:// can be read")
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(uri) from None
    except OSError as error:
        raise UserError(f"cannot read {uri}: {error.strerror}") from None


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        code = str(error.response.get("Error", {}).get("Code") or status)
        if code in ("404", "NoSuchKey"):
            raise FileNotFoundError(uri) from None
        if code in ("416", "InvalidRange"):
            raise _PastTheEnd from None
        if code == "NoSuchBucket":
            raise UserError(f"no bucket {_target(uri)['Bucket']}: mend the path {uri}") from None
        if code in ("403", "AccessDenied"):
            raise UserError(f"access denied to {uri}: these credentials may not read it") from None
        kind = StoreRefused if status.startswith("4") else UserError
        raise kind(f"the store answered {code} for {uri}: check the credentials and the store") from None
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.ProfileNotFound):
        raise UserError(
            f"no usable credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in"
        ) from None
    except (aws.BotoCoreError, ValueError) as error:
        # The library's own text may quote headers.
        raise UserError(
            f"cannot reach the store of {uri} ({type(error).__name__}): check AWS_ENDPOINT_URL and the network"
        ) from None
