"""Retention per domain, folded from ledgers and written for people to read."""
