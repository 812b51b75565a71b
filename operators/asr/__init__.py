"""Recognisers, and what they write without having heard it."""
