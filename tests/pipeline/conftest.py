"""The fixtures that several files of the pipeline's tests use: the S3 server, and runs to hand off."""

from tests.support.curated_handoffs import crawls, hand_off, runs, tokenizer
from tests.support.s3_server import bucket, s3_server

__all__ = ["bucket", "crawls", "hand_off", "runs", "s3_server", "tokenizer"]
