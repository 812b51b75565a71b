"""The S3 half of storage: any S3-compatible store through boto3, made patient.

    call ──botocore "standard" retries: 5xx, SlowDown, resets, timeouts, jittered back-off──> answer
    body ──cut off in the middle? ask again for the rest, from where it stopped, of the same ETag──> bytes
    put  ── one PUT, or multipart whose completion is the commit, aborted when anything fails

Credentials come from boto3's own chain only (environment, profile, instance role). Messages name endpoint, bucket and
key, never more.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from urllib3.exceptions import HTTPError

from operators.errors import UserError
from operators.storage.base import AccessRefused, S3Settings, Store, StoreRefused, StoreUnavailable, check_key

_PART_BYTES = 16 << 20
_MAX_PARTS = 10_000
_CHUNK_BYTES = 64 << 10  # what a cut connection may lose and ask for again
_LISTINGS = 16
"""Parts of a store that are listed at once: a page of a thousand names comes after a tenth of a second."""
_NETWORK = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, HTTPError, ConnectionError, TimeoutError)

_clients: dict[tuple[Any, ...], Any] = {}
_making = threading.Lock()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.Lock()))


@dataclass(frozen=True)
class S3Store(Store):
    bucket: str
    prefix: str
    s3: S3Settings

    @property
    def root(self) -> str:  # type: ignore[override]
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def _client(self) -> Any:
        # boto3 clients are safe between threads, not between processes; making one is not safe between threads.
        key = (os.getpid(), astuple(self.s3))
        with _making:
            if key not in _clients:
                with self._explained():
                    _clients[key] = _make_client(self.s3)
            return _clients[key]

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        return int(self._head(key)["ContentLength"])

    def version(self, key: str) -> str:
        return str(self._head(key)["ETag"])

    def _head(self, key: str) -> Any:
        with self._explained(key):
            try:
                return self._client.head_object(Bucket=self.bucket, Key=self._key(key))
            except aws.ClientError as error:
                # A HEAD has no body, so an expired token looks like one forbidden object: a GET says which of the two
                # it is.
                if _code(error) in ("AccessDenied", "400"):
                    self._get(key, 0, 1, None)
                raise

    def read(self, key: str) -> bytes:
        buffer = io.BytesIO()
        self._read(key, 0, None, buffer)
        return buffer.getvalue()

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        buffer = io.BytesIO()
        if size > 0:
            self._read(key, offset, size, buffer)
        return buffer.getvalue()

    def download(self, key: str, offset: int, size: int, file: BinaryIO) -> None:
        if size > 0:
            self._read(key, offset, size, file)

    def _read(self, key: str, offset: int, size: int | None, sink: BinaryIO) -> None:
        """Append [offset, offset + size) of the object to `sink`; None reads to its end."""
        with self._explained(key):
            start, done, etag, failures = sink.tell(), 0, None, 0
            while True:
                before = done
                try:
                    response = self._get(key, offset + done, None if size is None else size - done, etag)
                    if response is None:
                        return
                    etag = response["ETag"]
                    with response["Body"] as body:
                        while chunk := body.read(_CHUNK_BYTES):
                            sink.write(chunk)
                            done += len(chunk)
                    if done - before < response["ContentLength"]:
                        raise ConnectionError("the body ended early")
                    return
                except aws.ClientError as error:
                    if _code(error) != "PreconditionFailed":
                        raise
                    # Another object took its place while we read: what we have is of no use.
                    sink.seek(start)
                    sink.truncate()
                    done, before, etag = 0, 0, None
                    failures = self._pause(failures + 1, error)
                except _NETWORK as error:
                    failures = self._pause(1 if done > before else failures + 1, error)

    def _get(self, key: str, start: int, size: int | None, etag: str | None) -> Any:
        """Return the response to a GET of a range; None where the object ends before it."""
        condition = {"IfMatch": etag} if etag else {}
        if start or size is not None:
            condition["Range"] = f"bytes={start}-{'' if size is None else start + size - 1}"
        try:
            return self._client.get_object(Bucket=self.bucket, Key=self._key(key), **condition)
        except aws.ClientError as error:
            if _code(error) == "InvalidRange":
                return None
            raise

    def _pause(self, failures: int, error: Exception) -> int:
        """Wait a while that doubles with every failure in a row; when they are too many, let the error out."""
        if failures >= self.s3.max_attempts:
            raise error
        time.sleep(random.uniform(0, min(20.0, 0.1 * 2**failures)))
        return failures

    def put(self, key: str, data: bytes | Path) -> None:
        check_key(key)
        with self._explained(key):
            if isinstance(data, bytes):
                self._put(key, io.BytesIO(data), len(data))
            else:
                with data.open("rb") as file:
                    self._put(key, file, os.fstat(file.fileno()).st_size)

    def _put(self, key: str, file: BinaryIO, size: int) -> None:
        if size > self.s3.multipart_threshold_mb << 20:
            self._put_parts(key, file, size)
            return
        body = file.read()
        # The MD5 makes the store refuse a body damaged on the way; unlike newer checksums every S3-compatible store
        # knows it.
        self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=body, ContentMD5=_md5(body))

    def _put_parts(self, key: str, file: BinaryIO, size: int) -> None:
        target = {"Bucket": self.bucket, "Key": self._key(key)}
        part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        for attempt in range(3):
            file.seek(0)
            upload = {**target, "UploadId": self._client.create_multipart_upload(**target)["UploadId"]}
            try:
                parts: list[dict[str, Any]] = []
                while body := file.read(part_bytes):
                    number = len(parts) + 1
                    answer = self._client.upload_part(**upload, PartNumber=number, Body=body, ContentMD5=_md5(body))
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
                return
            except BaseException as error:
                with suppress(Exception):
                    self._client.abort_multipart_upload(**upload)
                # The upload may be gone because its completion was done and only the answer lost, or because another
                # process swept it. Both end well by writing the same bytes once more.
                if attempt == 2 or not isinstance(error, aws.ClientError) or _code(error) != "NoSuchUpload":
                    raise

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        strip = len(self._key(""))
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            for page in pages:
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # consoles make such empty objects to show a folder
                        yield entry["Key"][strip:], entry["Size"]

    def names(self, prefix: str = "", parts: Sequence[str] = ("",)) -> Iterator[str]:
        if len(parts) == 1:
            yield from (key for key, _ in self.list(prefix + parts[0]))
            return
        with ThreadPoolExecutor(_LISTINGS) as pool:
            waiting: deque[Future[Sequence[str]]] = deque()
            for part in parts:
                waiting.append(pool.submit(self._names, prefix + part))
                if len(waiting) == 2 * _LISTINGS:
                    yield from waiting.popleft().result()
            for listing in waiting:
                yield from listing.result()

    def _names(self, prefix: str) -> Sequence[str]:
        return [key for key, _ in self.list(prefix)]

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def sweep(self, prefix: str = "") -> int:
        """Abort multipart uploads that were begun more than a day ago: a living writer needs minutes."""
        removed, oldest = 0, datetime.now(UTC) - timedelta(days=1)
        with self._explained():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix)
            )
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < oldest:
                        target = {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                        self._client.abort_multipart_upload(**target)
                        removed += 1
        return removed

    @contextmanager
    def _explained(self, key: str | None = None) -> Iterator[None]:
        where = f"s3://{self.bucket}" if key is None else f"s3://{self.bucket}/{self._key(key)}"
        try:
            yield
        except (aws.BotoCoreError, aws.ClientError, *_NETWORK) as error:
            raise _explain(error, where, self.bucket, self.s3) from None  # boto's own text may quote request headers


def _make_client(s3: S3Settings) -> Any:
    config = Config(
        retries={"mode": "standard", "total_max_attempts": s3.max_attempts},
        connect_timeout=s3.connect_timeout,
        read_timeout=s3.read_timeout,
        # boto3's own is auto too, unless a profile says otherwise.
        s3={"addressing_style": s3.addressing_style} if s3.addressing_style != "auto" else None,
        # boto3's newer default checksums are refused by many S3-compatible stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=32,
    )
    session = boto3.Session(profile_name=s3.profile, region_name=s3.region)
    region = session.region_name or "us-east-1"
    try:
        client = session.client("s3", endpoint_url=s3.endpoint_url, region_name=region, config=config)
        # The star is for the order: this comes before botocore's own look, which reads a whole page for an error in it.
        client.meta.events.register("before-parse.*.ListObjectsV2", _parse_listing)
        return client
    except ValueError as error:
        if isinstance(error, aws.BotoCoreError):
            raise
        # botocore's way to say it, wherever the endpoint comes from. Its text may quote a password.
        fix = "fix s3.endpoint_url or AWS_ENDPOINT_URL, as in http://store:9000"
        raise UserError(f"the endpoint of S3 is no URL: {fix}") from None


def _parse_listing(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Take keys and sizes out of a page as text, and leave the rest of it to botocore: as XML they cost most of a
    listing's processor time. A page that is not laid out as S3 does it is left to botocore whole.
    """
    body: bytes = response_dict["body"]
    head, *entries = body.split(b"<Contents>")
    if response_dict["status_code"] != 200 or b"<ListBucketResult" not in head or b"<!" in body or not entries:
        return
    entries[-1], end, tail = entries[-1].rpartition(b"</Contents>")
    entries[-1] += end
    found = []
    for entry in entries:
        key, size = _between(entry, b"<Key>", b"</Key>"), _between(entry, b"<Size>", b"</Size>")
        whole = entry.rstrip().endswith(b"</Contents>")
        if not (whole and key and key.isascii() and b"&" not in key and size.isdigit()):
            return  # S3 gives keys as in a URL; what is written otherwise needs a reader of XML
        found.append({"Key": key.decode(), "Size": int(size)})
    customized_response_dict["Contents"] = found
    response_dict["body"] = head + tail


def _between(text: bytes, start: bytes, end: bytes) -> bytes:
    """Return what lies between two marks, nothing where they are not both there."""
    found, mark, _ = text.partition(start)[2].partition(end)
    return found if mark else b""


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _code(error: aws.ClientError) -> str:
    """Return the store's error code. A HEAD has no body to name one, so its status stands in."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    code = str(error.response.get("Error", {}).get("Code") or status)
    return {"404": "NoSuchKey", "403": "AccessDenied", "412": "PreconditionFailed", "416": "InvalidRange"}.get(
        code, code
    )


def _explain(error: Exception, where: str, bucket: str, s3: S3Settings) -> Exception:
    """Return the one line for an error of the store, or of the way to it."""
    if isinstance(error, aws.ClientError):
        return _explain_answer(error, where, bucket)
    if isinstance(error, aws.ProfileNotFound):
        return UserError(f"no profile {s3.profile} in the AWS configuration: fix s3.profile or write the profile")
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            f"no usable credentials for {where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.profile, "
            "or log in again"
        )
    if isinstance(error, _NETWORK):
        return StoreUnavailable(
            f"cannot reach {_endpoint(s3)} for {where} after {s3.max_attempts} tries ({type(error).__name__}): "
            "check s3.endpoint_url and the network"
        )
    if isinstance(error, (aws.ParamValidationError, aws.InvalidS3AddressingStyleError)):
        return UserError(
            f"{where} is not a valid S3 location, or s3.addressing_style is wrong: fix the path or the setting"
        )
    # What is left is of the settings: a malformed endpoint, an unknown region, a broken configuration file.
    return UserError(
        f"cannot use S3 for {where} ({type(error).__name__}): check the s3 settings and the AWS configuration"
    )


_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.SSOError,
    aws.TokenRetrievalError,
    aws.InvalidConfigError,
)


def _explain_answer(error: aws.ClientError, where: str, bucket: str) -> Exception:
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchKey":
        return FileNotFoundError(where)
    if code in _FIX:
        kind = AccessRefused if code in ("AccessDenied", "InvalidObjectState") else UserError
        return kind(_FIX[code].format(where=where, bucket=bucket))
    if code in _OF_ONE_OBJECT or code.startswith("KMS."):
        return AccessRefused(f"the store refused {where} with {code}: it is encrypted with a key that is not at hand")
    if status >= 500 or code in ("SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests"):
        return StoreUnavailable(
            f"the store keeps answering {code or status} for {where}: try again later, or with fewer workers"
        )
    return StoreRefused(
        f"the store refused {where} with {code or status}: check the path, the s3 settings and your rights"
    )


_OF_ONE_OBJECT = ("InvalidRequest", "ServerSideEncryptionConfigurationNotFoundError")
"""What stores answer for an object under a customer's key, which costs that recording, not the run."""

_FIX = {
    "NoSuchBucket": "no bucket {bucket}: create it, or fix the path {where}",
    "AccessDenied": (
        "access denied to {where}: these credentials lack a right on it (listing, reading and writing are needed)"
    ),
    "InvalidObjectState": "{where} is archived: restore it to a readable storage class first",
    "InvalidAccessKeyId": (
        "the access key is unknown to the store that holds {where}: check which credentials are in use"
    ),
    "SignatureDoesNotMatch": (
        "the secret key does not fit the access key for {where}: check which credentials are in use"
    ),
    "ExpiredToken": "the credentials for {where} have expired: log in again",
    "ExpiredTokenException": "the credentials for {where} have expired: log in again",
    "InvalidToken": "the session token for {where} is not valid: log in again",
    "TokenRefreshRequired": "the credentials for {where} have expired: log in again",
    "RequestExpired": "the credentials for {where} have expired: log in again",
    "RequestTimeTooSkewed": "this machine's clock is wrong, so {where} refuses it: set the clock",
    "PermanentRedirect": "bucket {bucket} lies in another region: set s3.region to it",
    "AuthorizationHeaderMalformed": "bucket {bucket} lies in another region: set s3.region to it",
    "IllegalLocationConstraintException": "bucket {bucket} lies in another region: set s3.region to it",
    "301": "bucket {bucket} lies in another region: set s3.region to it",
    "QuotaExceeded": "the quota of bucket {bucket} is used up: free some space or choose another bucket",
    "XMinioStorageFull": "the store's disks are full: free some space or choose another bucket",
    "EntityTooLarge": "{where} is larger than the store allows",
}


def _endpoint(s3: S3Settings) -> str:
    """Return the endpoint as it may be shown: a user may have put a password into the URL."""
    if not s3.endpoint_url:
        return "Amazon S3"
    parts = urlsplit(s3.endpoint_url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
