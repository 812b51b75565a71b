"""Bytes by name: one small set of verbs over a local folder or an s3:// prefix."""
