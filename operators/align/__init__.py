"""Aligners: when each word of a known text is spoken, and its times as captions."""
