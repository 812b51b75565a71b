"""Tests of plan --estimate."""
