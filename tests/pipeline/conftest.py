"""The S3 server's fixtures, for every test of the pipeline."""

from tests.s3_server import bucket, s3_server

__all__ = ["bucket", "s3_server"]
