"""Nouns and pure verbs: bytes, arrays and records in and out. No Ray, no config files, no logging."""
