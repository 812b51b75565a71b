"""Benchmarks of Annotate: quality, word times, agreement of annotators."""
