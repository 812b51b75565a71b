"""Texts with their differences marked, and sounds, as a page's template takes them.

align(...) ──MARKS──> (mark, token), ... ──marked──> runs of one mark ──template──> <mark>, <del>, <ins>
audio file ──data_uri──> what an <audio> of the page plays
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import groupby

from operators.edits import EditKind

MARKS: dict[EditKind, str] = {"equal": "same", "substitution": "sub", "deletion": "del", "insertion": "ins"}
"""What a template calls the steps of an alignment."""


def marked(steps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the runs of neighbours with one mark, words spaced and Han characters not.

    The space goes before a word, outside its mark.
    """
    spaced: list[tuple[str, str]] = []
    before = ""
    for kind, token in steps:
        if token:
            if before and before[-1].isascii() and token[0].isascii():
                spaced.append(("same" if not spaced or spaced[-1][0] != kind else kind, " "))
            spaced.append((kind, token))
            before = token
    return [(kind, "".join(text for _, text in run)) for kind, run in groupby(spaced, key=lambda step: step[0])]


def data_uri(audio: bytes) -> str:
    """Return an Ogg, FLAC or WAV file as an address that holds it."""
    kinds = {b"OggS": "audio/ogg", b"fLaC": "audio/flac", b"RIFF": "audio/wav"}
    return f"data:{kinds.get(audio[:4], 'application/octet-stream')};base64,{base64.b64encode(audio).decode()}"
