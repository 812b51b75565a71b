"""Vocal events put into clips of speech: a labelled set made of two."""
