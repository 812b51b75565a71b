"""Folders that run without torch."""
