"""The S3 server that the tests of storage use."""

from tests.support.s3_server import bucket, s3_server

__all__ = ["bucket", "s3_server"]
