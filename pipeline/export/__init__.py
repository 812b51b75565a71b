"""Manifests that let the loaders of others read our shards where they lie."""
